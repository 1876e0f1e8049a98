"""The doctor says which primary it reached and by whom, which replicas there are, and what could be lost."""

from __future__ import annotations

from collections.abc import Sequence

from rollstream.producer.doctor.examine import examine
from rollstream.producer.doctor.finding import FAIL, OK, WARN, Finding
from rollstream.schemas import Keys
from rollstream.transport.redis.access import RedisAccess
from tests.support.sentinel.servers import Watched


def of(findings: Sequence[Finding], check: str) -> tuple[str, str]:
    return next((each.level, each.seen) for each in findings if each.check == check)


async def test_the_doctor_names_the_primary_its_sentinel_and_its_replicas(watched: Watched, policy: str) -> None:
    found = await examine(watched.url, Keys(policy))

    level, seen = of(found, "sentinel")
    assert (level, f"the primary is 127.0.0.1:{watched.primary.port}" in seen) == (OK, True)
    assert any(f"Sentinel 127.0.0.1:{each.port} says" in seen for each in watched.sentinels)
    assert of(found, "replicas") == (OK, "2 connected")
    assert of(found, "cut off")[0] == WARN


async def test_the_doctor_warns_of_more_replicas_than_there_are(watched: Watched, policy: str) -> None:
    watched.primary.ask("CONFIG", "SET", "min-replicas-to-write", 1)
    try:
        found = await examine(RedisAccess(url=watched.url, wait=3), Keys(policy))
    finally:
        watched.primary.ask("CONFIG", "SET", "min-replicas-to-write", 0)

    assert of(found, "replicas") == (FAIL, "2 connected, and --redis-wait is 3")
    assert of(found, "cut off")[0] == OK
