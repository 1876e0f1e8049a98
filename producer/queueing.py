"""Queues the jobs of one batch, each once: what a submit and a replay send, safe to send again at any point."""

from __future__ import annotations

from functools import partial
from importlib import resources
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from producer.connection import Connection
from producer.errors import BatchCancelledError, BatchConflictError
from producer.submission import Submission
from schemas import Keys

_SUBMIT = resources.files("producer").joinpath("submit.lua").read_text()


async def queue(connection: Connection, keys: Keys, submission: Submission) -> None:
    """Queue those jobs of `submission` that are not queued yet.

    Raises `BatchConflictError` when its batch id belongs to other content, `BatchCancelledError` when the batch was
    cancelled, `RedisUnavailableError`.
    """
    batch_id = submission.batch.batch_id
    names = [keys.jobs(keys.partition(batch_id)), keys.ledger(batch_id)]
    for chunk in submission.chunks():
        calls = [[_SUBMIT, len(names), *names, *submission.script_args(*job)] for job in chunk]
        replies = await connection.call("submit", partial(_send, calls=calls))
        if b"conflict" in replies:
            raise BatchConflictError(batch_id)
        if b"cancelled" in replies:
            raise BatchCancelledError(batch_id)


async def _send(redis: Redis, calls: list[list[Any]]) -> list[Any]:
    """One script call a job, in one pipeline. EVAL, not EVALSHA: a restarted Redis has no scripts."""
    async with redis.pipeline(transaction=False) as pipeline:
        for call in calls:
            pipeline.execute_command("EVAL", *call)
        replies: list[Any] = await pipeline.execute(raise_on_error=False)
    for reply in replies:
        if isinstance(reply, RedisError):
            raise reply
    return replies
