"""The client for trainers without an event loop: the same calls, blocking, on a loop in a background thread."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn, Self

from rollstream.schemas import Batch, GenerationConfig, GroupError, GroupResult, PolicyVersion
from rollstream.transport.redis.faults import fault_of
from rollstream.transport.redis.urls import without_password

from .batches.handle import BatchHandle
from .batches.prompts import Rows
from .batches.rollout_batch import RolloutBatch
from .calls.loop_thread import LoopThread
from .client import AsyncClient
from .errors import RedisUnavailableError, client_stays, handle_stays
from .policies.adapter_files import AdapterSource
from .policies.adapter_tensors import PeftConfig
from .policies.wait_for_version import Workers


class BlockingBatchHandle:
    """`BatchHandle` with blocking calls; see there for what each returns and raises."""

    def __init__(self, handle: BatchHandle, thread: LoopThread) -> None:
        self._handle = handle
        self._thread = thread

    @property
    def batch(self) -> Batch:
        """What was submitted, but for the prompts."""
        return self._handle.batch

    @property
    def batch_id(self) -> str:
        """Names the batch, also for `attach` in another process."""
        return self._handle.batch_id

    @property
    def num_groups(self) -> int:
        """Prompts of the batch."""
        return self._handle.num_groups

    def groups(self, timeout: float | None = None) -> Iterator[GroupResult | GroupError]:
        """Each group once, as it finishes; `timeout` in seconds until the last."""
        began, position = time.monotonic(), 0
        while position < self.num_groups:
            waited = time.monotonic() - began
            for answer in self._thread.run("read results", self._handle.groups_from(position, timeout, waited)):
                position += 1
                yield answer

    def finished(self) -> list[GroupResult | GroupError]:
        """The groups that have finished by now, in finish order."""
        return self._thread.run("read results", self._handle.finished())

    def done(self) -> int:
        """How many groups have finished."""
        return self._thread.run("count results", self._handle.done())

    def cancel(self) -> int:
        """Answer every group that has no answer with an error of code `cancelled`; how many those are."""
        return self._thread.run("cancel", self._handle.cancel())

    def result(
        self,
        timeout: float | None = None,
        progress: bool = False,
        pad_token_id: int = 0,
        pad_to_max_new_tokens: bool = False,
    ) -> RolloutBatch:
        """Wait for every group; the whole batch in submission order."""
        result = self._handle.result(timeout, progress, pad_token_id, pad_to_max_new_tokens)
        return self._thread.run("read results", result)

    def wait(self, timeout: float | None = None, progress: bool = False) -> dict[int, GroupResult | GroupError]:
        """Wait for every group; the answers by group number, without torch."""
        return self._thread.run("read results", self._handle.wait(timeout, progress))

    def __reduce__(self) -> NoReturn:
        raise TypeError(handle_stays(type(self).__name__, self.batch_id))

    def __eq__(self, other: object) -> bool:
        return self._handle == other._handle if isinstance(other, BlockingBatchHandle) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._handle)

    def __repr__(self) -> str:
        return repr(self._handle).replace("BatchHandle", "BlockingBatchHandle", 1)


class Client:
    """`AsyncClient` with blocking calls. Use as `with Client(url, policy="math-7b") as client`."""

    def __init__(
        self,
        redis_url: str = "redis://127.0.0.1:6379/0",
        *,
        policy: str,
        partitions: int = 1,
        reconnect_s: float = 60.0,
    ) -> None:
        self._client = AsyncClient(redis_url, policy=policy, partitions=partitions, reconnect_s=reconnect_s)
        try:
            self._thread = LoopThread(self._client.aclose)
        except (OSError, RuntimeError) as error:  # no file or no thread is left for its event loop
            shown = without_password(redis_url)
            raise RedisUnavailableError("start a client", shown, str(error), fault_of(error).advice) from error

    def submit(  # noqa: PLR0913 - a call reads as its keyword arguments
        self,
        input_ids: Rows,
        attention_mask: Rows | None = None,
        config: GenerationConfig | None = None,
        *,
        adapter: str | None = None,
        batch_id: str | None = None,
        prompts_per_job: int = 8,
        queue_deadline_s: float | None = None,
        run_deadline_s: float | None = None,
        min_policy_version: int | None = None,
        max_staleness: int | None = None,
    ) -> BlockingBatchHandle:
        """See `AsyncClient.submit`."""
        submit = self._client.submit(
            input_ids,
            attention_mask,
            config,
            adapter=adapter,
            batch_id=batch_id,
            prompts_per_job=prompts_per_job,
            queue_deadline_s=queue_deadline_s,
            run_deadline_s=run_deadline_s,
            min_policy_version=min_policy_version,
            max_staleness=max_staleness,
        )
        return BlockingBatchHandle(self._thread.run("submit", submit), self._thread)

    def generate(  # noqa: PLR0913 - a call reads as its keyword arguments
        self,
        input_ids: Rows,
        attention_mask: Rows | None = None,
        config: GenerationConfig | None = None,
        *,
        adapter: str | None = None,
        batch_id: str | None = None,
        prompts_per_job: int = 8,
        queue_deadline_s: float | None = None,
        run_deadline_s: float | None = None,
        min_policy_version: int | None = None,
        max_staleness: int | None = None,
        timeout: float | None = None,
        progress: bool = False,
        pad_token_id: int = 0,
        pad_to_max_new_tokens: bool = False,
    ) -> RolloutBatch:
        """See `AsyncClient.generate`."""
        generate = self._client.generate(
            input_ids,
            attention_mask,
            config,
            adapter=adapter,
            batch_id=batch_id,
            prompts_per_job=prompts_per_job,
            queue_deadline_s=queue_deadline_s,
            run_deadline_s=run_deadline_s,
            min_policy_version=min_policy_version,
            max_staleness=max_staleness,
            timeout=timeout,
            progress=progress,
            pad_token_id=pad_token_id,
            pad_to_max_new_tokens=pad_to_max_new_tokens,
        )
        return self._thread.run("generate", generate)

    def attach(self, batch_id: str) -> BlockingBatchHandle:
        """See `AsyncClient.attach`."""
        return BlockingBatchHandle(self._thread.run("attach", self._client.attach(batch_id)), self._thread)

    def publish_policy(
        self,
        version: int,
        *,
        checkpoint: Path | str | None = None,
        adapter: AdapterSource | None = None,
        lora_alpha: float | None = None,
        use_rslora: bool | None = None,
        peft_config: PeftConfig | None = None,
        progress: bool = False,
    ) -> PolicyVersion:
        """See `AsyncClient.publish_policy`."""
        publish = self._client.publish_policy(
            version,
            checkpoint=checkpoint,
            adapter=adapter,
            lora_alpha=lora_alpha,
            use_rslora=use_rslora,
            peft_config=peft_config,
            progress=progress,
        )
        return self._thread.run("publish a policy version", publish)

    def publish_adapter(
        self,
        name: str,
        version: int,
        source: AdapterSource,
        *,
        lora_alpha: float | None = None,
        use_rslora: bool | None = None,
        peft_config: PeftConfig | None = None,
        progress: bool = False,
    ) -> str:
        """See `AsyncClient.publish_adapter`."""
        publish = self._client.publish_adapter(
            name,
            version,
            source,
            lora_alpha=lora_alpha,
            use_rslora=use_rslora,
            peft_config=peft_config,
            progress=progress,
        )
        return self._thread.run("publish an adapter", publish)

    def newest_version(self) -> int:
        """See `AsyncClient.newest_version`."""
        return self._thread.run("read the versions", self._client.newest_version())

    def wait_for_version(self, version: int, workers: Workers = "all", timeout: float | None = None) -> None:
        """See `AsyncClient.wait_for_version`."""
        self._thread.run("wait for a version", self._client.wait_for_version(version, workers, timeout))

    def close(self) -> None:
        """Close the connections and end the thread; waiting calls raise `ClientClosedError`. Safe to call twice.

        Batches go on without us. A client that is not closed ends with the process, or when nobody holds it any more.
        """
        self._thread.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(client_stays(type(self).__name__))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
