"""The client for trainers without an event loop: the same calls, which block while a background thread runs them.

Arguments and effects of the calls are declared and explained only at `AsyncClient` and `BatchHandle`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Generic, NoReturn, Self, TypeVar, Unpack

from rollstream.schemas import Batch, ScoreDescription
from rollstream.schemas.times import RUN_RETENTION_S, SESSION_RETENTION_S
from rollstream.transport.redis.access import DEFAULT_URL, RedisAccess
from rollstream.transport.redis.faults import fault_of

from .batches.any_handle import AnyHandle
from .batches.handle import BatchHandle
from .batches.read_answers import Answer
from .calls.blocking import Blocking, blocking, blocking_and_held
from .calls.loop_thread import LoopThread
from .client import AsyncClient
from .client_options import QueueOptions
from .errors import RedisUnavailableError, client_stays, handle_stays
from .order.prompt_lengths import PromptLengths
from .runs.book import RunCounts
from .runs.outstanding import OutstandingBatch
from .runs.run import Run
from .scores.handle import ScoreHandle
from .scores.read_scores import ScoreAnswer
from .sessions.session import Session
from .staleness.staleness_gate import StalenessGate

H_co = TypeVar("H_co", bound=AnyHandle[Any, Any], covariant=True)
A = TypeVar("A")


class BlockingAnyHandle(Blocking[H_co], Generic[H_co, A]):
    """What the handles of prompts and of rows have in common; each is the awaited one with blocking calls."""

    @property
    def batch_id(self) -> str:
        """The batch's id, for `attach` in another process."""
        return self._awaited.batch_id

    @property
    def num_groups(self) -> int:
        """The number of prompts, or of rows."""
        return self._awaited.num_groups

    @property
    def is_repeat(self) -> bool:
        """Whether an earlier submit had queued the whole batch, so that this one changed nothing."""
        return self._awaited.is_repeat

    def groups(self, timeout: float | None = None) -> Iterator[A]:
        """Each group once, as it finishes; `timeout`: seconds until the last one."""
        began, position = time.monotonic(), 0
        while position < self.num_groups:
            waited = time.monotonic() - began
            for answer in self._thread.run("read results", self._awaited.groups_from(position, timeout, waited)):
                position += 1
                yield answer

    def __reduce__(self) -> NoReturn:
        raise TypeError(handle_stays(type(self).__name__, self.batch_id))

    def __eq__(self, other: object) -> bool:
        return self._awaited == other._awaited if isinstance(other, BlockingAnyHandle) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._awaited)

    def __repr__(self) -> str:
        return repr(self._awaited).replace("<", "<Blocking", 1)


class BlockingBatchHandle(BlockingAnyHandle[BatchHandle, Answer]):
    """`BatchHandle` with blocking calls."""

    @property
    def batch(self) -> Batch:
        """The description of the batch, without the prompts."""
        return self._awaited.batch

    finished = blocking("read results", BatchHandle.finished)
    done = blocking("count results", BatchHandle.done)
    cancel = blocking("cancel", BatchHandle.cancel)
    result = blocking("read results", BatchHandle.result)
    wait = blocking("read results", BatchHandle.wait)
    routed_experts = blocking("read routing", BatchHandle.routed_experts)


class BlockingScoreHandle(BlockingAnyHandle[ScoreHandle, ScoreAnswer]):
    """`ScoreHandle` with blocking calls."""

    @property
    def batch(self) -> ScoreDescription:
        """The description of the batch, without the rows."""
        return self._awaited.batch

    finished = blocking("read results", ScoreHandle.finished)
    done = blocking("count results", ScoreHandle.done)
    cancel = blocking("cancel", ScoreHandle.cancel)
    result = blocking("read results", ScoreHandle.result)
    wait = blocking("read results", ScoreHandle.wait)


def _held(handle: BatchHandle | ScoreHandle, thread: LoopThread) -> BlockingBatchHandle | BlockingScoreHandle:
    if isinstance(handle, ScoreHandle):
        return BlockingScoreHandle(handle, thread)
    return BlockingBatchHandle(handle, thread)


_held.__name__ = "BlockingBatchHandle | BlockingScoreHandle"  # what `help` shows that `attach` returns


class BlockingRun(Blocking[Run]):
    """`Run` with blocking calls. Use as `with client.run("exp-42") as run`, from one thread at a time."""

    @property
    def name(self) -> str:
        """The run's name."""
        return self._awaited.name

    @property
    def epoch(self) -> int:
        """How often the run was opened, this time included."""
        return self._awaited.epoch

    @property
    def cursor(self) -> Any:
        """The trainer's own data, see `Run.cursor`."""
        return self._awaited.cursor

    @cursor.setter
    def cursor(self, value: object) -> None:
        self._awaited.cursor = value

    @property
    def cursor_version(self) -> int:
        """How often the cursor was moved."""
        return self._awaited.cursor_version

    @property
    def counts(self) -> RunCounts:
        """How many batches there are."""
        return self._awaited.counts

    @property
    def outstanding(self) -> tuple[OutstandingBatch[Any], ...]:
        """All batches that were submitted and are not consumed, in the order of submission, see `Run.outstanding`."""
        return tuple(one.held_by(lambda handle: _held(handle, self._thread)) for one in self._awaited.outstanding)

    def gate(
        self, *, batch_samples: int, max_staleness: int, max_outstanding: int | None = None, version: int = 0
    ) -> StalenessGate:
        """A gate that goes on where that of the trainer before was, see `Run.gate`; use its `try_admit`."""
        return self._awaited.gate(
            batch_samples=batch_samples,
            max_staleness=max_staleness,
            max_outstanding=max_outstanding,
            version=version,
        )

    submit = blocking_and_held("submit", Run.submit, BlockingBatchHandle)
    submit_scores = blocking_and_held("submit", Run.submit_scores, BlockingScoreHandle)
    consumed = blocking("consume a batch", Run.consumed)
    dropped = blocking("drop a batch", Run.dropped)
    save_cursor = blocking("save a cursor", Run.save_cursor)
    publish_policy = blocking("publish a policy version", Run.publish_policy)
    activate = blocking("activate a policy version", Run.activate)
    open = blocking("open a run", Run.open)
    close = blocking("close a run", Run.close)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_more: object) -> None:
        self._thread.run("close a run", self._awaited.__aexit__(kind))

    def __reduce__(self) -> NoReturn:
        raise TypeError(client_stays(type(self).__name__))


class BlockingSession(Blocking[Session]):
    """`Session` with blocking calls, from `Client.session`."""

    @property
    def name(self) -> str:
        """The session's name."""
        return self._awaited.name

    submit = blocking_and_held("submit", Session.submit, BlockingBatchHandle)
    turns = blocking("read a session", Session.turns)
    trajectory = blocking("read a session", Session.trajectory)
    trajectories = blocking("read a session", Session.trajectories)

    def __reduce__(self) -> NoReturn:
        raise TypeError(client_stays(type(self).__name__))

    def __repr__(self) -> str:
        return repr(self._awaited).replace("<", "<Blocking", 1)


class Client(Blocking[AsyncClient]):
    """`AsyncClient` with blocking calls. Use as `with Client(url, policy="math-7b") as client`.

    It takes the arguments of `AsyncClient`, and each call has the arguments, the results and the errors of the call
    there.
    """

    def __init__(self, redis_url: str | RedisAccess = DEFAULT_URL, **queue: Unpack[QueueOptions]) -> None:
        client = AsyncClient(redis_url, **queue)
        try:
            super().__init__(client, LoopThread(client.aclose))
        except (OSError, RuntimeError) as error:  # no file or no thread is left for its event loop
            shown = str(RedisAccess.of(redis_url))
            raise RedisUnavailableError("start a client", shown, str(error), fault_of(error).advice) from error

    submit = blocking_and_held("submit", AsyncClient.submit, BlockingBatchHandle)
    generate = blocking("generate", AsyncClient.generate)
    submit_scores = blocking_and_held("submit", AsyncClient.submit_scores, BlockingScoreHandle)
    score = blocking("score", AsyncClient.score)
    attach = blocking_and_held("attach", AsyncClient.attach, _held)
    routed_experts = blocking("read routing", AsyncClient.routed_experts)
    publish_policy = blocking("publish a policy version", AsyncClient.publish_policy)
    publish_adapter = blocking("publish an adapter", AsyncClient.publish_adapter)
    activate = blocking("activate a policy version", AsyncClient.activate)
    newest_version = blocking("read the versions", AsyncClient.newest_version)
    announced_version = blocking("read the versions", AsyncClient.announced_version)
    wait_for_version = blocking("wait for a version", AsyncClient.wait_for_version)

    @property
    def lengths(self) -> PromptLengths | None:
        """How long the completions of prompts became; None without `remember_lengths`."""
        return self._awaited.lengths

    def run(self, name: str, *, retention_s: float = RUN_RETENTION_S) -> BlockingRun:
        """A trainer's run, for `with client.run("exp-42") as run`, see `AsyncClient.run`."""
        return BlockingRun(self._awaited.run(name, retention_s=retention_s), self._thread)

    def session(self, name: str, *, retention_s: float = SESSION_RETENTION_S) -> BlockingSession:
        """A conversation, see `AsyncClient.session`."""
        return BlockingSession(self._awaited.session(name, retention_s=retention_s), self._thread)

    def close(self) -> None:
        """Close the connections and end the thread; waiting calls raise `ClientClosedError`. Safe to call twice.

        Batches go on without the client. A client that is not closed ends with the process or when it is collected.
        """
        self._thread.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(client_stays(type(self).__name__))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
