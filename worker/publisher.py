"""An answer leaves the worker through one fenced script: result, ledger, ack and `sealed`, or nothing of it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from importlib import resources
from typing import Any, Literal

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from schemas import Envelope, ErrorCode, GroupError, GroupResult, Keys, Sealed, WireError, encode
from schemas.errors import cut
from schemas.keys import GROUP
from worker.connections import retrying
from worker.errors import UnpublishableError
from worker.lease import Lease

AT_ONCE = 32
"""Publishes under way to one partition: a job has up to thousands of groups, and each publish holds a connection."""

Outcome = Literal["published", "duplicate", "fenced"]
Settlement = Literal["acknowledged", "unanswered", "fenced"]


log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Standing:
    """What the ledger says of a job."""

    cancelled: bool
    """Its batch was."""
    unanswered: list[int]
    """Groups that have no answer, from whomever."""


class Publisher:
    """Sends answers and keeps sending while Redis is away; what it holds meanwhile is bounded by admission."""

    def __init__(self, redis: Redis, keys: Keys, result_ttl_s: int) -> None:
        self._redis = redis
        self._keys = keys
        self._result_ttl_s = result_ttl_s
        self._script = redis.register_script(resources.files("worker").joinpath("publish.lua").read_bytes())
        self._settle_script = redis.register_script(resources.files("worker").joinpath("settle.lua").read_bytes())
        # A stream's own: answers that wait for one node of a cluster keep none from the others.
        self._slots: defaultdict[str, asyncio.Semaphore] = defaultdict(partial(asyncio.Semaphore, AT_ONCE))
        self.counts: dict[Outcome, int] = {"published": 0, "duplicate": 0, "fenced": 0}

    async def publish(self, lease: Lease, job: Envelope, answer: GroupResult | GroupError) -> Outcome:
        """Publish one group's answer. `fenced`: the lease was lost, nothing was written; `duplicate`: it had one.

        An answer larger than a reader takes becomes a `GroupError` that says so. Raises `UnpublishableError`.
        """
        keys = [lease.jobs_key, self._keys.results(job.batch_id), self._keys.ledger(job.batch_id)]
        payload = _encoded(answer, lease.consumer)
        sealed = encode(Sealed(batch_id=job.batch_id, num_groups=job.num_groups))
        args: list[str | int | bytes] = [
            GROUP, *lease.token(),
            answer.group, answer.kind, payload, sealed,
            job.num_groups, job.job, job.job_groups, self._result_ttl_s,
        ]  # fmt: skip
        try:
            async with self._slots[lease.jobs_key]:
                reply = await retrying("publish", self._script, keys=keys, args=args)
        except RedisError as error:
            raise UnpublishableError(f"batch {job.batch_id}: {error}") from error
        outcome = _outcome(reply)
        self.counts[outcome] += 1
        return outcome

    def fenced(self, lease: Lease, group: int) -> None:
        """Count a group that may not be answered from here any more, and of which nothing was sent."""
        self.counts["fenced"] += 1
        log.warning("group fenced: its lease ended", entry=lease.entry_id, group=group)

    async def standing(self, job: Envelope) -> Standing:
        """What the ledger says of the job, in one command. Raises `RedisError` for a ledger that is something else."""
        fields = ["cancelled", *(f"g:{group}" for group in job.groups)]
        cancelled, *known = await retrying("read ledger", _values, self._redis, self._keys.ledger(job.batch_id), fields)
        missing = [group for group, answer in zip(job.groups, known, strict=True) if answer is None]
        return Standing(cancelled is not None, missing)

    async def settle(self, lease: Lease, job: Envelope) -> Settlement:
        """Acknowledge a job all of whose groups have an answer, whoever gave it. Raises as `standing` does."""
        keys = [lease.jobs_key, self._keys.ledger(job.batch_id)]
        args: list[str | int] = [GROUP, *lease.token(), job.first_group, job.job_groups]
        reply = await retrying("settle", self._settle_script, keys=keys, args=args)
        settlement: Settlement = reply.decode()
        return settlement


async def _values(redis: Redis, ledger: str, fields: list[str]) -> list[bytes | None]:
    values: Any = await redis.hmget(ledger, fields)
    return list(values)


def _encoded(answer: GroupResult | GroupError, worker: str) -> bytes:
    """The answer as bytes, or, where it is more than a reader takes, why there is none."""
    try:
        return encode(answer)
    except WireError as error:
        problem = f"the answer is too large to send ({error}): ask for fewer or shorter completions a prompt"
        return encode(
            GroupError(
                batch_id=answer.batch_id, group=answer.group, code=ErrorCode.TOO_LONG.value, field="prompt",
                message=cut(problem), worker=worker,
            )
        )  # fmt: skip


def _outcome(reply: bytes) -> Outcome:
    match reply:
        case b"published":
            return "published"
        case b"duplicate":
            return "duplicate"
        case _:
            return "fenced"
