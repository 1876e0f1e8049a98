"""An answer leaves the worker through one fenced script: result, ledger, ack and `sealed`, or nothing of it."""

from __future__ import annotations

from importlib import resources
from typing import Any, Literal

from redis.asyncio import Redis

from schemas import Envelope, GroupError, GroupResult, Keys, Sealed, encode
from schemas.keys import GROUP
from worker.connections import retrying
from worker.lease import Lease

Outcome = Literal["published", "duplicate", "fenced"]


class Publisher:
    """Sends answers and keeps sending while Redis is away; what it holds meanwhile is bounded by admission."""

    def __init__(self, redis: Redis, keys: Keys, result_ttl_s: int) -> None:
        self._redis = redis
        self._keys = keys
        self._result_ttl_s = result_ttl_s
        self._script = redis.register_script(resources.files("worker").joinpath("publish.lua").read_bytes())
        self.counts: dict[Outcome, int] = {"published": 0, "duplicate": 0, "fenced": 0}

    async def publish(self, lease: Lease, job: Envelope, answer: GroupResult | GroupError) -> Outcome:
        """Publish one group's answer. `fenced`: the lease was lost, nothing was written; `duplicate`: it had one."""
        keys = [lease.jobs_key, self._keys.results(job.batch_id), self._keys.ledger(job.batch_id)]
        sealed = encode(Sealed(batch_id=job.batch_id, num_groups=job.num_groups))
        args: list[str | int | bytes] = [
            GROUP, *lease.token(),
            answer.group, answer.kind, encode(answer), sealed,
            job.num_groups, job.job, job.job_groups, self._result_ttl_s,
        ]  # fmt: skip
        reply = await retrying("publish", self._script, keys=keys, args=args)
        outcome = _outcome(reply)
        self.counts[outcome] += 1
        return outcome

    async def unanswered(self, job: Envelope) -> list[int]:
        """Groups of the job that have no answer in the ledger."""
        fields = [f"g:{group}" for group in job.groups]
        known = await retrying("read ledger", _answered, self._redis, self._keys.ledger(job.batch_id), fields)
        return [group for group, answer in zip(job.groups, known, strict=True) if answer is None]


async def _answered(redis: Redis, ledger: str, fields: list[str]) -> list[bytes | None]:
    answers: Any = await redis.hmget(ledger, fields)
    return list(answers)


def _outcome(reply: bytes) -> Outcome:
    match reply:
        case b"published":
            return "published"
        case b"duplicate":
            return "duplicate"
        case _:
            return "fenced"
