"""Janitors of a policy with one partition, each as a worker of that name has it."""

from __future__ import annotations

from redis.asyncio import Redis

from rollstream.schemas import Keys
from rollstream.worker.delivery.admission import Admission
from rollstream.worker.intake.janitor import Janitor, Retention


def janitor_of(
    redis: Redis,
    policy: str,
    *,
    consumer: str = "janitor",
    seconds: float = 1e12,
    nbytes: int = 2**40,
    admission: Admission | None = None,
) -> Janitor:
    """`seconds`, `nbytes`: the retention; by default nothing is too old or too large."""
    return Janitor(
        redis=redis,
        keys=Keys(policy),
        consumer=consumer,
        retention=Retention(seconds=seconds, nbytes=nbytes),
        admission=Admission(limit=1) if admission is None else admission,
    )
