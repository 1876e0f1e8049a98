"""What a trainer holds: submit a batch of prompts, get it back as tensors, from this process or another."""

from __future__ import annotations

import time
import uuid
from typing import Self

from producer.connection import Connection
from producer.deadlines import Deadlines
from producer.handle import BatchHandle
from producer.ledger import read_batch
from producer.prompts import Prompts, Rows
from producer.queueing import queue
from producer.rollout_batch import RolloutBatch
from producer.submission import split
from schemas import ConfigError, GenerationConfig, Keys


class AsyncClient:
    """One policy's queue. Use as `async with AsyncClient(url, policy="math-7b") as client`.

    `policy` and `partitions` are those of the workers. Once Redis has answered, it is waited for up to `reconnect_s`
    seconds whenever it goes away. Raises `NameRefusedError` for a bad policy name and `RedisUnavailableError`
    for a bad URL; nothing connects before the first call.
    """

    def __init__(
        self,
        redis_url: str = "redis://127.0.0.1:6379/0",
        *,
        policy: str,
        partitions: int = 1,
        reconnect_s: float = 60.0,
    ) -> None:
        self._keys = Keys(policy, partitions)
        self._connection = Connection(redis_url, reconnect_s)

    async def submit(
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
    ) -> BatchHandle:
        """Queue B prompts, each to be answered `config.num_return_sequences` times; returns once all are queued.

        `input_ids`: (B, width) torch tensor or numpy array of any integer dtype, or B ragged lists. `attention_mask`:
        the same shape, 1 where there is a token, in any pattern; None: everywhere. `config` is required. `adapter` is
        `name@version`. Submitting a `batch_id` again with the same content (prompts, config, `adapter` and
        `prompts_per_job`) queues only what is not queued yet and returns an equal handle, so a submit that failed
        half-way is simply repeated.

        A job that no worker took within `queue_deadline_s` seconds of being queued, and groups that are not done
        `run_deadline_s` seconds after a worker began the job, are answered with an error. None: no deadline. They are
        no content: what is queued keeps the deadlines that it was queued with.

        Raises `PromptsError`, `ConfigError`, `DeadlineError`, `NameRefusedError` and `WireError` (a job too large)
        before anything is queued; `BatchConflictError` for other content; `BatchCancelledError` once the batch was
        cancelled; `RedisUnavailableError`.
        """
        if not isinstance(config, GenerationConfig):
            raise ConfigError("config", f"is required as a GenerationConfig, got {type(config).__name__}", config)
        submission = split(
            Prompts.of(input_ids, attention_mask),
            config,
            batch_id=uuid.uuid4().hex if batch_id is None else batch_id,
            adapter=adapter,
            prompts_per_job=prompts_per_job,
            submitted_at=time.time(),
            deadlines=Deadlines.of(queue_deadline_s, run_deadline_s),
        )
        await queue(self._connection, self._keys, submission)
        return BatchHandle(self._connection, self._keys, submission.batch)

    async def generate(  # noqa: PLR0913 - a call reads as its keyword arguments
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
        timeout: float | None = None,
        progress: bool = False,
        pad_token_id: int = 0,
        pad_to_max_new_tokens: bool = False,
    ) -> RolloutBatch:
        """`submit`, then `BatchHandle.result`. `timeout` counts from when all is queued."""
        handle = await self.submit(
            input_ids,
            attention_mask,
            config,
            adapter=adapter,
            batch_id=batch_id,
            prompts_per_job=prompts_per_job,
            queue_deadline_s=queue_deadline_s,
            run_deadline_s=run_deadline_s,
        )
        return await handle.result(timeout, progress, pad_token_id, pad_to_max_new_tokens)

    async def attach(self, batch_id: str) -> BatchHandle:
        """The handle of a batch that another process or an earlier run submitted.

        Raises `UnknownBatchError`, `UnreadableResultError`, `NameRefusedError`, `RedisUnavailableError`.
        """
        return BatchHandle(self._connection, self._keys, await read_batch(self._connection, self._keys, batch_id))

    async def aclose(self) -> None:
        """Close the connections. Batches go on without us."""
        await self._connection.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.aclose()
