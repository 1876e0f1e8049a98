"""Typed calls of a batch's scripts: queue its jobs, look for them, cancel its groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from redis.asyncio import Redis

from rollstream.schemas import Batch, Envelope, Keys, encode
from rollstream.schemas.keys import GROUP, totals
from rollstream.schemas.wire.scores import Description
from rollstream.transport.redis.confirmed import confirmed
from rollstream.transport.redis.scripts import Call, Word, load

from .submission import AnySubmission, Chunk

Submitted = Literal["queued", "known", "conflict", "cancelled", "consumed"]

SUBMIT = load(__package__, "submit.lua")
LOST = load(__package__, "lost.lua")
CANCEL = load(__package__, "cancel.lua", with_parts=True)


def submit_call(keys: Keys, submission: AnySubmission[Any], chunk: Chunk) -> Call:
    """See `submit.lua`: queue the jobs of `chunk`."""
    batch = submission.batch
    entries = [(envelope.job, _entry(envelope, payload)) for envelope, payload in chunk]
    words = len(entries[0][1])
    words_of_jobs = [word for number, entry in entries for word in (number, *entry)]
    partition = keys.partition(batch.batch_id)
    jobs_key = keys.jobs(partition)
    names = jobs_key, keys.ledger(batch.batch_id), keys.batches(partition), totals(jobs_key)
    head = submission.digest, encode(batch), batch.num_groups, batch.batch_id, batch.submitted_at
    wanted = batch.first_groups if isinstance(batch, Batch) else None
    return SUBMIT(names, [*head, words, "" if wanted is None else wanted, submission.keep_s, *words_of_jobs])


async def submit(redis: Redis, call: Call, wait: int) -> Submitted:
    """Send the call of `submit_call`, and wait for so many replicas. It is sent whole: the payloads travel once.

    Raises `RedisError`, `UnconfirmedError`.
    """
    match await confirmed(redis, call, wait, whole=True):
        case b"known":
            return "known"
        case b"conflict":
            return "conflict"
        case b"cancelled":
            return "cancelled"
        case b"consumed":
            return "consumed"
        case _:
            return "queued"


async def jobs_left(
    redis: Redis, keys: Keys, batch_id: str, *, groups: int, entries: Sequence[str]
) -> Literal["answered", "alive", "lost"]:
    """See `lost.lua`: whether one of the jobs with these `entries` can still be answered.

    Raises `RedisError`.
    """
    names = keys.jobs(keys.partition(batch_id)), keys.ledger(batch_id)
    reply: bytes = await LOST(names, [GROUP, groups, *entries]).whole_to(redis)
    left: Literal["answered", "alive", "lost"] = reply.decode()  # type: ignore[assignment]
    return left


async def cancel(
    redis: Redis,
    keys: Keys,
    batch: Description,
    *,
    now: float,
    keep_s: int,
    sealed: bytes,
    first_group: int,
    answers: Sequence[bytes],
) -> int | Literal["unknown", "sealed"]:
    """See `cancel.lua`: how many of the groups from `first_group` on, one for each of `answers`, are cancelled.

    Raises `RedisError`.
    """
    # Like the other scripts: the totals count what may be generated.
    batch_id, tokens = batch.batch_id, batch.tokens_per_group if isinstance(batch, Batch) else 0
    partition = keys.partition(batch_id)
    parts = keys.parts(batch_id), keys.part_bytes(partition)
    routing = (keys.routing(batch_id),) if isinstance(batch, Batch) and batch.config.routed_experts else ()
    names = keys.results(batch_id), keys.ledger(batch_id), totals(keys.jobs(partition)), *parts, *routing
    args: list[Word] = [f"{now:.3f}", keep_s, sealed, tokens, batch_id, first_group, *answers]
    match await CANCEL(names, args).whole_to(redis):
        case b"unknown":
            return "unknown"
        case b"sealed":
            return "sealed"
        case count:
            return int(count)


def _entry(envelope: Envelope, payload: bytes) -> list[Word]:
    return [word for pair in envelope.fields(payload).items() for word in pair]
