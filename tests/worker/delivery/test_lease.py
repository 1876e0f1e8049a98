"""A lease ends here before it ends in Redis, and what runs for it ends with it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from rollstream.schemas import Keys
from rollstream.schemas.keys import GROUP
from rollstream.worker.delivery.lease import Lease, LeaseEndedError, Leases
from rollstream.worker.measure.measures import Measures
from tests.support.worker_process import until

UNUSED = Redis()  # connects to nothing: no command is sent here


def lease(ends_at: float) -> Lease:
    return Lease(jobs_key="jobs", dead_key="dead", entry_id="1-0", consumer="w1", delivery=1, ends_at=ends_at)


@pytest.mark.parametrize(("now", "ended"), [(80.0, False), (98.9, False), (99.1, True), (200.0, True)])
def test_a_lease_ends_a_tenth_of_its_length_early(now: float, ended: bool) -> None:
    leases, held = Leases(redis=UNUSED, lease_s=10, measures=Measures()), lease(ends_at=100.0)
    leases.hold(held)

    leases.end_overdue(now)

    assert (held.ended, leases.ended_unpublished("jobs")) == (ended, ended)


def test_a_lease_that_was_answered_ends_nothing() -> None:
    leases, held = Leases(redis=UNUSED, lease_s=10, measures=Measures()), lease(ends_at=100.0)
    leases.hold(held)
    leases.drop(held)

    leases.end_overdue(200.0)

    assert not held.ended
    assert ("jobs", "1-0") not in leases


async def test_a_delivery_waits_until_what_is_left_of_earlier_ones_of_its_entry_is_dropped() -> None:
    leases = Leases(redis=UNUSED, lease_s=10, measures=Measures())
    first, second, other = (
        Lease(jobs_key="jobs", dead_key="dead", entry_id=entry, consumer="w1", delivery=n, ends_at=1e9)
        for entry, n in (("1-0", 1), ("1-0", 2), ("2-0", 1))
    )
    for held in (first, second, other):
        leases.hold(held)
    waiting = asyncio.create_task(leases.after_earlier(second))

    await leases.after_earlier(first)
    leases.drop(other)
    await asyncio.sleep(0)
    assert not waiting.done()

    leases.drop(first)
    await asyncio.wait_for(waiting, 5)


async def test_a_request_ends_with_its_lease() -> None:
    held, started, cancelled = lease(100.0), asyncio.Event(), asyncio.Event()

    async def request() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    running = asyncio.create_task(held.during(request()))
    await started.wait()
    held.end()

    with pytest.raises(LeaseEndedError):
        await running
    assert cancelled.is_set()


async def test_no_request_starts_for_a_lease_that_has_ended() -> None:
    held = lease(100.0)
    held.end()

    with pytest.raises(LeaseEndedError):
        await held.during(asyncio.sleep(0))


async def test_a_cancelled_caller_is_cancelled_and_not_told_of_a_lease() -> None:
    held = lease(100.0)
    caller = asyncio.create_task(held.during(asyncio.Event().wait()))
    await asyncio.sleep(0)

    caller.cancel()

    with pytest.raises(asyncio.CancelledError):
        await caller


async def test_a_caller_ends_when_it_is_cancelled_though_its_request_loses_the_cancellation() -> None:
    async def loses_it() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return "an answer"

    caller = asyncio.create_task(lease(ends_at=1e9).during(loses_it()))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait([caller])

    assert caller.cancelled()


def test_its_state_can_be_read() -> None:
    leases = Leases(redis=UNUSED, lease_s=10, measures=Measures())
    leases.hold(lease(100.0))

    assert repr(leases) == "<Leases held=1 of 10 s>"


@pytest.mark.parametrize("runs", [True, False], ids=["something runs", "nothing runs"])
async def test_a_renewal_that_comes_too_late_ends_what_runs_and_says_so_and_else_nothing(
    redis: Redis, policy: str, runs: bool
) -> None:
    """The renewal of a job whose last answer is on its way may come after that has acknowledged it."""
    jobs = Keys(policy).jobs(0)
    await redis.xgroup_create(jobs, GROUP, id="0", mkstream=True)
    leases, held = (
        Leases(redis=redis, lease_s=0.3, measures=Measures()),
        Lease(
            jobs_key=jobs, dead_key="dead", entry_id="1-0", consumer="w1", delivery=1, ends_at=time.monotonic() + 100
        ),
    )
    leases.hold(held)
    request = asyncio.create_task(held.during(asyncio.Event().wait())) if runs else None
    with capture_logs() as lines:
        renewing = asyncio.create_task(leases.run())

        async def said() -> bool:
            return any(line["event"] in ("lease lost", "no lease to renew, nothing runs for it") for line in lines)

        await until(said)
        renewing.cancel()

    assert held.ended is runs
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["lease lost"] * runs
    if request is not None:
        with pytest.raises(LeaseEndedError):
            await request


async def test_a_request_that_outlives_a_stop_leaves_its_caller_uncancelled() -> None:
    """Like redis-py now and then, it answers as if nothing had been cancelled."""
    held, started = lease(100.0), asyncio.Event()

    async def request() -> str:
        started.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "answered"

    async def caller() -> tuple[str, int]:
        task = asyncio.current_task()
        assert task is not None
        return await held.during(request()), task.cancelling()

    running = asyncio.create_task(caller())
    await started.wait()
    held.end()

    assert await running == ("answered", 0)


async def test_a_caller_that_is_cancelled_while_its_lease_ends_is_cancelled() -> None:
    held = lease(100.0)
    caller = asyncio.create_task(held.during(asyncio.Event().wait()))
    await asyncio.sleep(0)

    held.end()
    caller.cancel()

    with pytest.raises(asyncio.CancelledError):
        await caller


async def test_a_lease_that_ended_here_is_not_kept_from_others(redis: Redis, policy: str) -> None:
    jobs, lease_s = Keys(policy).jobs(0), 3.0
    await redis.xgroup_create(jobs, GROUP, id="0", mkstream=True)
    for _ in range(2):
        await redis.xadd(jobs, {"payload": b""})
    await redis.xreadgroup(GROUP, "w1", {jobs: ">"}, count=2)
    rows: Any = await redis.xpending_range(jobs, GROUP, "-", "+", 2)
    leases = Leases(redis=redis, lease_s=lease_s, measures=Measures())
    kept, ended = (
        Lease(
            jobs_key=jobs,
            dead_key="dead",
            entry_id=row["message_id"].decode(),
            consumer="w1",
            delivery=1,
            ends_at=time.monotonic() + lease_s,
        )
        for row in rows
    )
    leases.hold(kept)
    leases.hold(ended)
    ended.end()

    renewing = asyncio.create_task(leases.run())
    await until(lambda: idle_for(redis, jobs, ended, lease_s))
    renewing.cancel()

    assert not kept.ended
    assert not await idle_for(redis, jobs, kept, lease_s)


async def idle_for(redis: Redis, jobs: str, lease: Lease, seconds: float) -> bool:
    rows: Any = await redis.xpending_range(jobs, GROUP, lease.entry_id, lease.entry_id, 1)
    (row,) = rows
    return bool(row["time_since_delivered"] > 1000 * seconds)
