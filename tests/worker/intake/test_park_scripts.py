"""Only the holder of a lease parks its job, and a worker that takes a parked job takes the oldest that it may have."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

from rollstream.schemas.keys import GROUP
from rollstream.schemas.parked import VERSION_PREFIX, ParkedFor
from rollstream.worker.config import WorkerSettings
from rollstream.worker.delivery.lease import Lease
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.intake.parking import Parking
from rollstream.worker.redis_io.connections import connect
from rollstream.worker.versions.announced import Announced
from rollstream.worker.versions.served import Served
from tests.support.fault_steps import (
    holder,
)
from tests.support.faults import Holder, Link, Queue
from tests.support.lua import SCRIPTS
from tests.support.weights.versions import follower_of
from tests.support.worker_process import wait_for


def script(queue: Queue, name: str, *args: Any) -> Any:
    return cast("Any", queue.redis).eval(SCRIPTS[name].text, 1, queue.jobs_key, GROUP, *args)


def delivered(queue: Queue, consumer: str) -> bytes:
    """A new entry, delivered once."""
    entry_id = cast("bytes", queue.redis.xadd(queue.jobs_key, {"n": 1}))
    queue.redis.xreadgroup(GROUP, consumer, {queue.jobs_key: ">"})
    return entry_id


def test_only_the_holder_of_the_lease_parks_and_a_repeat_changes_nothing(queue: Queue) -> None:
    queue.redis.xgroup_create(queue.jobs_key, GROUP, id="0", mkstream=True)
    entry_id = delivered(queue, "one")

    for consumer, delivery in (("two", 1), ("one", 2)):
        assert script(queue, "park.lua", consumer, entry_id, delivery, "parked:version:5", 0) == b"fenced"
    assert holder(queue) == Holder("one", 1)

    assert script(queue, "park.lua", "one", entry_id, 1, "parked:version:5", 0) == b"parked"
    assert script(queue, "park.lua", "one", entry_id, 1, "parked:version:5", 0) == b"fenced"
    assert holder(queue) == Holder("parked:version:5", 0)


async def test_a_park_sent_again_after_a_lost_reply_does_not_take_our_own_next_delivery(
    redis_url: str, policy: str, queue: Queue
) -> None:
    queue.redis.xgroup_create(queue.jobs_key, GROUP, id="0", mkstream=True)
    entry_id = delivered(queue, "one").decode()
    with Link(redis_url) as link:
        redis = connect(link.url)
        engine = StubEngine(WorkerSettings(policy=policy, engine="stub"))
        versions = follower_of(redis, queue, engine)
        versions.serving = Served(announced=Announced(version=5))
        parking = Parking(redis=redis, jobs_keys=[queue.jobs_key], consumer="one", follower=versions)
        link.lose_reply(to=b"parked:version:", holding=b"parked")
        lease = Lease(
            jobs_key=queue.jobs_key,
            dead_key="dead",
            entry_id=entry_id,
            consumer="one",
            delivery=1,
            ends_at=time.monotonic() + 30,
        )

        parked = asyncio.create_task(parking.park(lease, 5))
        await asyncio.to_thread(wait_for, lambda: link.lost == 1, 30, lambda: "no reply was lost")
        (taken,) = await parking.next()
        await parked
        await redis.aclose()

    assert (taken.entry_id, taken.delivery) == (entry_id, 1)
    assert holder(queue) == Holder("one", 1)


def test_what_waits_for_us_or_an_older_version_is_taken_oldest_first_with_its_count(queue: Queue) -> None:
    queue.redis.xgroup_create(queue.jobs_key, GROUP, id="0", mkstream=True)
    ids = [delivered(queue, "one") for _ in range(4)]
    for entry_id, version in zip(ids, (10, 9, 9, 9), strict=True):
        script(queue, "park.lua", "one", entry_id, 1, ParkedFor(version).consumer, 0)
    queue.redis.xdel(queue.jobs_key, ids[1])

    assert script(queue, "unpark.lua", "new", VERSION_PREFIX, 8) == [0]
    assert script(queue, "unpark.lua", "new", VERSION_PREFIX, 9) in ([1], [0, ids[2], 1, [b"n", b"1"]])
    taken = [script(queue, "unpark.lua", "new", VERSION_PREFIX, 9) for _ in range(3)]

    assert [0, ids[3], 1, [b"n", b"1"]] in taken
    assert taken[-1] == [0]
    assert {found.consumer for found in queue.holders().values()} == {"new", "parked:version:10"}
    assert ids[1].decode() not in queue.holders()
