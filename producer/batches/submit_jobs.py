"""Queue the jobs of one batch, each once; for submits and replays. Safe to repeat at any point."""

from __future__ import annotations

from functools import partial
from typing import Any

from rollstream.schemas import Keys
from rollstream.schemas.ledger import LedgerField

from ..errors import BatchCancelledError, BatchConflictError, UnknownBatchError
from ..redis_io.connection import Connection
from ..redis_io.large_commands import check_size, sized
from . import scripts
from .submission import AnySubmission, Chunk

_MOST_ROUNDS = 3
_ENVELOPE = 1024
"""The most bytes of a job's entry besides its payload."""
_ADVICE = "submit fewer prompts_per_job, or raise the limit"


async def enqueue(connection: Connection, keys: Keys, submission: AnySubmission[Any]) -> None:
    """Queue the jobs of `submission` that are not queued yet.

    If Redis loses everything in between (FLUSHALL, a restart without a disk), it would have only the later jobs: then
    all are queued again. Raises `BatchConflictError` if the batch id belongs to other content, `BatchCancelledError` if
    the batch was cancelled, `UnknownBatchError` if Redis loses it again and again, `TooLargeForRedisError` (before
    anything is queued if Redis tells its limits), `RedisUnavailableError`.
    """
    chunks = list(submission.chunks())
    largest = max(len(payload) for _, payload in submission.jobs)
    await check_size(connection, "submit", largest, max(map(_size, chunks)), _ADVICE)
    for _ in range(_MOST_ROUNDS):
        if await _queue_once(connection, keys, submission, chunks) == 1:  # nothing can be lost in between
            return
        if await is_queued(connection, keys, submission.batch.batch_id, submission.jobs[0][0].job):
            return
    raise lost(submission.batch.batch_id, keys)


async def is_queued(connection: Connection, keys: Keys, batch_id: str, job: int) -> bool:
    """Whether the batch's ledger still knows this job. Raises `RedisUnavailableError`."""
    key, field = keys.ledger(batch_id), LedgerField.job(job)
    known: Any = await connection.call("submit", lambda redis: redis.hexists(key, field))
    return bool(known)


def lost(batch_id: str, keys: Keys) -> UnknownBatchError:
    """The error for jobs that Redis lost while the others were queued."""
    return UnknownBatchError(batch_id, keys.policy, "Redis lost its first jobs while the others were queued; repeat it")


async def _queue_once(connection: Connection, keys: Keys, submission: AnySubmission[Any], chunks: list[Chunk]) -> int:
    """Queue all chunks; returns the number of script calls."""
    batch_id, calls = submission.batch.batch_id, 0
    for chunk in chunks:
        submit = partial(scripts.submit, call=scripts.submit_call(keys, submission, chunk))
        reply = await connection.call("submit", sized(connection, "submit", submit, _size(chunk), _ADVICE))
        if reply == "conflict":
            raise BatchConflictError(batch_id)
        if reply == "cancelled":
            raise BatchCancelledError(batch_id)
        calls += 1
    return calls


def _size(chunk: Chunk) -> int:
    """Size in bytes of the command for a chunk."""
    return sum(len(payload) + _ENVELOPE for _, payload in chunk)
