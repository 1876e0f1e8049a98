"""Queue the jobs of one batch, each once; for submits and replays. Safe to repeat at any point."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Generic, TypeVar

from rollstream.schemas import Keys
from rollstream.schemas.hashes.ledger import LedgerField
from rollstream.transport.redis.faults import UNCONFIRMED, fault_of

from ..errors import BatchCancelledError, BatchConflictError, RedisUnavailableError, UnknownBatchError
from ..images.upload import keep_images
from ..queue_errors import UnconfirmedSubmitError
from ..redis_io.connection import Connection
from ..redis_io.large_commands import check_size, sized
from ..run_errors import BatchConsumedError
from . import scripts
from .submission import AnySubmission, Chunk

_MOST_ROUNDS = 3
_ENVELOPE = 1024
"""The most bytes of a job's entry besides its payload."""
_ADVICE = "submit fewer prompts_per_job, or raise the limit"

S = TypeVar("S", bound=AnySubmission[Any])
log = logging.getLogger("rollstream")


async def enqueue(connection: Connection, keys: Keys, submission: AnySubmission[Any]) -> bool:
    """Queue the jobs of `submission` that are not queued yet; returns whether it queued any, now or in a lost try.
    Its images are in Redis before that.

    If Redis loses everything in between (FLUSHALL, a restart without a disk), it would have only the later jobs: then
    all are queued again. Raises `BatchConflictError` if the batch id belongs to other content, `BatchCancelledError` if
    the batch was cancelled, `UnknownBatchError` if Redis loses it again and again, `TooLargeForRedisError` (before
    anything is queued if Redis tells its limits), `ImagesGoneError`, `RedisUnavailableError`, `UnconfirmedSubmitError`.
    """
    chunks = list(submission.chunks())
    largest = max(len(payload) for _, payload in submission.jobs)
    await check_size(connection, "submit", largest, max(map(_size, chunks)), _ADVICE)
    for _ in range(_MOST_ROUNDS):
        replies = await _queue_once(connection, keys, submission, chunks)
        # With one call nothing can be lost in between.
        if len(replies) == 1 or await is_queued(connection, keys, submission.batch.batch_id, submission.jobs[0][0].job):
            return "queued" in replies
    raise lost(submission.batch.batch_id, keys)


async def is_queued(connection: Connection, keys: Keys, batch_id: str, job: int) -> bool:
    """Whether the batch's ledger still knows this job. Raises `RedisUnavailableError`."""
    key, field = keys.ledger(batch_id), LedgerField.job(job)
    known: Any = await connection.call("submit", lambda redis: redis.hexists(key, field))
    return bool(known)


def lost(batch_id: str, keys: Keys) -> UnknownBatchError:
    """The error for jobs that Redis lost while the others were queued."""
    return UnknownBatchError(batch_id, keys.policy, "Redis lost its first jobs while the others were queued; repeat it")


async def _queue_once(
    connection: Connection, keys: Keys, submission: AnySubmission[Any], chunks: list[Chunk]
) -> list[str]:
    """Queue all chunks; returns the script's reply to each."""
    batch_id, replies = submission.batch.batch_id, list[str]()
    with _confirming(batch_id):
        await keep_images(connection, keys, submission.images)
    for chunk in chunks:
        call = scripts.submit_call(keys, submission, chunk)
        submit = partial(scripts.submit, call=call, wait=connection.access.wait)
        with _confirming(batch_id):
            reply = await connection.call("submit", sized(connection, "submit", submit, _size(chunk), _ADVICE))
        if reply == "conflict":
            raise BatchConflictError(batch_id)
        if reply == "cancelled":
            raise BatchCancelledError(batch_id)
        if reply == "consumed":
            raise BatchConsumedError(submission.run, keys.policy, batch_id)
        replies.append(reply)
    return replies


@contextmanager
def _confirming(batch_id: str) -> Iterator[None]:
    """Names the batch in the error for too few replicas."""
    try:
        yield
    except RedisUnavailableError as error:
        if fault_of(error.__cause__) is not UNCONFIRMED:
            raise
        raise UnconfirmedSubmitError(batch_id, error.url, error.problem) from error.__cause__


class Resubmission(Generic[S]):
    """Queues a batch again of which a failover lost all, or some jobs; what is there stays as it is.

    A promoted replica is the old primary as it was shortly before. `queued` is set once, before anybody reads, and
    taken away once all groups are here; without it, as for a batch of another process, nothing can be queued again.
    """

    def __init__(self, *, connection: Connection, keys: Keys) -> None:
        """Made before the batch is queued: a failover in between counts."""
        self._connection = connection
        self._keys = keys
        self._seen = connection.failovers
        self._submission: S | None = None
        self.is_repeat = False
        """Whether an earlier submit had queued the whole batch."""

    def queued(self, submission: S, *, is_repeat: bool) -> None:
        """Keep what was queued, if failovers can be seen at all."""
        self.is_repeat = is_repeat
        self._submission = submission if self._connection.sees_failovers else None

    def forget(self) -> None:
        """All groups are here."""
        self._submission = None

    async def after_failover(self) -> bool:
        """Queue again what is missing, if there was a failover since the last time. Returns whether it did.

        Raises what `enqueue` raises.
        """
        now = self._connection.failovers
        if now == self._seen or self._submission is None:
            return False
        batch_id = self._submission.batch.batch_id
        log.warning("Redis failed over and lost jobs of batch %s: they are queued again", batch_id)
        with suppress(BatchCancelledError):  # its groups are answered
            await enqueue(self._connection, self._keys, self._submission)
        self._seen = now
        return True


def _size(chunk: Chunk) -> int:
    """Size in bytes of the command for a chunk."""
    return sum(len(payload) + _ENVELOPE for _, payload in chunk)
