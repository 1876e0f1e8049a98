"""A job that waits for its session's worker goes to anybody once that worker drains or is gone, and not before."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis

from rollstream import AsyncClient, GenerationConfig
from rollstream.schemas import Keys
from rollstream.schemas.keys import GROUP
from rollstream.schemas.parked import ParkedForWorker
from rollstream.worker.conversations.session_workers import SessionWorkers
from rollstream.worker.delivery.admission import Admission
from rollstream.worker.intake.sessions import Sessions
from tests.support.partials.partial_steps import serving

LEASE_S = 60.0
"""No wait here ends by itself."""
OWNER = ParkedForWorker("owner")
REPORTS: dict[str, dict[str, str]] = {
    "gone": {},
    "draining": {"state": "draining"},
    "asked to drain": {"state": "serving", "drain": "1"},
    "serving": {"state": "serving"},
    "paused": {"state": "serving", "paused_for": "memory"},
}


async def parked(redis: Redis, keys: Keys, report: dict[str, str]) -> None:
    """What is queued waits for the owner, whose report this is."""
    client: Any = redis
    await client.xgroup_create(keys.jobs(0), GROUP, id="0", mkstream=True)
    await client.xreadgroup(GROUP, OWNER.consumer, {keys.jobs(0): ">"})
    if report:
        await client.hset(keys.worker(OWNER.worker), mapping=report)
        await client.expire(keys.worker(OWNER.worker), 60)


async def test_another_worker_takes_the_job_of_one_that_is_gone_at_once(
    redis: Redis, redis_url: str, policy: str, trainer: AsyncClient
) -> None:
    batch = await trainer.submit([[5]], None, GenerationConfig(max_new_tokens=2), session="s", session_wait_s=60)
    await parked(redis, Keys(policy), REPORTS["gone"])

    async with serving(redis_url, policy, lease_s=LEASE_S):
        (answer,) = (await batch.wait(timeout=10)).values()

    assert (answer.kind, getattr(answer, "delivery", None)) == ("group", 2)


@pytest.mark.parametrize("owner", REPORTS)
async def test_only_the_waits_for_a_worker_that_takes_no_job_any_more_are_ended(
    redis: Redis, policy: str, owner: str
) -> None:
    keys = Keys(policy)
    clock: Any = None
    await redis.xadd(keys.jobs(0), {"n": 1})
    await parked(redis, keys, REPORTS[owner])
    sessions = Sessions(
        redis=redis, jobs_keys=[keys.jobs(0)], consumer="w", lease_s=LEASE_S, admission=Admission(limit=1), clock=clock,
        workers=SessionWorkers(redis=redis, keys=keys, consumer="w"),
    )  # fmt: skip
    before: Any = await redis.xpending_range(keys.jobs(0), GROUP, "-", "+", 9)

    await sessions.free(keys.jobs(0))

    after: Any
    (after,) = await redis.xpending_range(keys.jobs(0), GROUP, "-", "+", 9)
    is_free = after["time_since_delivered"] >= 1000 * LEASE_S
    assert is_free == (owner not in {"serving", "paused"})
    assert (after["consumer"], after["times_delivered"]) == (OWNER.consumer.encode(), before[0]["times_delivered"])
