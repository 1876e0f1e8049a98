"""An answer leaves the worker through one fenced script: result, ledger, ack and `sealed`, or nothing of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Literal

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from schemas import Envelope, ErrorCode, GroupError, GroupResult, Keys, Sealed, WireError, encode
from schemas.errors import cut
from schemas.keys import GROUP
from worker.connections import retrying
from worker.errors import UnpublishableError
from worker.lease import Lease
from worker.pipelines import Pipelines, Word

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
        self._pipelines = Pipelines(redis)
        self._keys = keys
        self._result_ttl_s = result_ttl_s
        self._script = redis.register_script(resources.files("worker").joinpath("publish.lua").read_bytes())
        self._settle_script = redis.register_script(resources.files("worker").joinpath("settle.lua").read_bytes())
        self.counts: dict[Outcome, int] = {"published": 0, "duplicate": 0, "fenced": 0}

    async def publish(self, lease: Lease, job: Envelope, answer: GroupResult | GroupError) -> Outcome:
        """Publish one group's answer. `fenced`: the lease was lost, nothing was written; `duplicate`: it had one.

        An answer larger than a reader takes becomes a `GroupError` that says so. Raises `UnpublishableError`.
        """
        keys = [lease.jobs_key, self._keys.results(job.batch_id), self._keys.ledger(job.batch_id)]
        payload = _encoded(answer, lease.consumer)
        args: list[Word] = [
            GROUP, *lease.token(),
            answer.group, answer.kind, payload, _sealed(job.batch_id, job.num_groups),
            job.num_groups, job.job, job.job_groups, self._result_ttl_s,
        ]  # fmt: skip
        try:
            reply = await retrying("publish", self._pipelines.run, self._script, keys, args)
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
        stream = self._keys.jobs(self._keys.partition(job.batch_id))
        command = "HMGET", self._keys.ledger(job.batch_id), "cancelled", *(f"g:{group}" for group in job.groups)
        cancelled, *known = await retrying("read ledger", self._pipelines.send, stream, *command)
        missing = [group for group, answer in zip(job.groups, known, strict=True) if answer is None]
        return Standing(cancelled is not None, missing)

    async def settle(self, lease: Lease, job: Envelope) -> Settlement:
        """Acknowledge a job all of whose groups have an answer, whoever gave it. Raises as `standing` does."""
        keys = [lease.jobs_key, self._keys.ledger(job.batch_id)]
        args: list[str | int] = [GROUP, *lease.token(), job.first_group, job.job_groups]
        reply = await retrying("settle", self._settle_script, keys=keys, args=args)
        settlement: Settlement = reply.decode()
        return settlement


@lru_cache(maxsize=1024)
def _sealed(batch_id: str, num_groups: int) -> bytes:
    """Each answer of a batch brings it along, for any of them may be the last."""
    return encode(Sealed(batch_id=batch_id, num_groups=num_groups))


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
