"""Redis' clock that was ahead and is right again: deadlines strike, jobs are taken over, finished ones are trimmed."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis
from typer.testing import CliRunner

from rollstream import Client
from rollstream.producer.cli.app import app
from rollstream.producer.doctor.stream_checks import stream_findings
from rollstream.schemas import Keys
from rollstream.schemas.keys import GROUP, horizons
from rollstream.schemas.parked import ParkedForWorker
from rollstream.schemas.times import LONGEST_HEARTBEAT_S, is_outlived, report_ttl_s
from rollstream.worker.intake.clock_set_back import SetBack
from rollstream.worker.jobs.deadlines import waited_too_long
from tests.support.examined import partition
from tests.support.fault_steps import stub, tokens, wait_until_done
from tests.support.faults import Queue, audit
from tests.support.janitors import janitor_of
from tests.support.reports import report_of
from tests.worker.jobs.test_deadlines import job_of

DAY_S = 86_400
POLYNOMIAL = 0xAD93D23594C935A9


def crc64(data: bytes) -> bytes:
    """As Redis ends a DUMP (Jones' polynomial, reflected)."""
    crc = 0
    reflected = int(f"{POLYNOMIAL:064b}"[::-1], 2)
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (reflected if crc & 1 else 0)
    return crc.to_bytes(8, "little")


def deliver_in_the_future(queue: Queue, by_s: int = DAY_S) -> None:
    """What a clock leaves that was ahead by so much when the only pending entry was delivered."""
    redis: Any = queue.redis
    (group,) = redis.xinfo_stream(queue.jobs_key, full=True)["groups"]
    ((_, _, delivered_ms, _),) = group["pel" if "pel" in group else "pending"]
    dump: bytes = redis.dump(queue.jobs_key)[:-8]
    then, later = (int(ms).to_bytes(8, "little") for ms in (delivered_ms, delivered_ms + 1000 * by_s))
    assert dump.count(then) >= 1
    changed = dump.replace(then, later)
    redis.restore(queue.jobs_key, 0, changed + crc64(changed), replace=True)


def test_the_jobs_of_a_worker_that_died_then_are_taken_over_after_a_lease_and_a_half(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    queue.redis.xgroup_create(queue.jobs_key, GROUP, id="0", mkstream=True)
    batch = client.submit([[5], [6]], None, tokens(1))
    queue.redis.xreadgroup(GROUP, "died", {queue.jobs_key: ">"})
    deliver_in_the_future(queue)
    assert queue.idle_s() == 0

    with stub(redis_url, policy, lease_s=1) as worker:
        wait_until_done(queue, batch.batch_id, 2, worker, timeout_s=15)

    audit(redis_url, policy, batch.batch_id, 2)


async def test_a_job_that_waits_for_a_worker_waits_no_lease_more(redis: Redis, queue: Queue) -> None:
    """It was parked with most of its lease used up, which the clock has made forgotten."""
    queue.redis.xgroup_create(queue.jobs_key, GROUP, id="0", mkstream=True)
    queue.redis.xadd(queue.jobs_key, {"n": 1})
    queue.redis.xreadgroup(GROUP, ParkedForWorker("owner").consumer, {queue.jobs_key: ">"})
    deliver_in_the_future(queue)

    await SetBack(redis=redis, lease_s=60).look(queue.jobs_key)

    assert queue.idle_s() >= 60


@pytest.mark.parametrize(
    ("submitted_at", "late"), [(90.0, True), (99.5, False), (5000.0, False)], ids=["long ago", "now", "also ahead"]
)
def test_a_deadline_strikes_by_the_producers_clock_where_the_entry_is_still_to_come(
    submitted_at: float, late: bool
) -> None:
    job = job_of(queue_deadline_s=2.0).model_copy(update={"submitted_at": submitted_at})

    assert (waited_too_long(job, "3700000-1", 100.0) is not None) == late


async def ahead(redis: Redis, policy: str, finished: int, unfinished: int = 0) -> str:
    """A stream with entries that have tomorrow's ids."""
    jobs, now_ms = Keys(policy).jobs(0), int(1000 * time.time())
    await redis.xgroup_create(jobs, GROUP, id="0", mkstream=True)
    for number in range(finished + unfinished):
        await redis.xadd(jobs, {"payload": b"x"}, id=f"{now_ms + 1000 * DAY_S}-{number + 1}")
    await redis.xreadgroup(GROUP, "w", {jobs: ">"})
    entries: Any = await redis.xrange(jobs)
    await redis.xack(jobs, GROUP, *[entry_id for entry_id, _ in entries[:finished]])
    return jobs


async def test_finished_jobs_go_once_they_are_as_old_as_the_retention(redis: Redis, policy: str) -> None:
    jobs = await ahead(redis, policy, finished=5, unfinished=2)
    janitor = janitor_of(redis, policy, seconds=3600)

    kept = await janitor.trim(jobs)
    noted: Any = await redis.hgetall(horizons(jobs))
    ((seen, at),) = noted.items()
    await redis.hset(horizons(jobs), seen, str(int(at) - 3_601_000))  # an hour later
    gone = await janitor.trim(jobs)

    assert (kept, gone) == (0, 5)
    assert await redis.xlen(jobs) == 2
    assert 0 < await redis.ttl(horizons(jobs)) <= 2 * DAY_S


async def test_what_was_noted_by_a_clock_that_is_ahead_no_more_counts_for_nothing(redis: Redis, policy: str) -> None:
    jobs = await ahead(redis, policy, finished=5)
    tomorrow: Any = {
        f"{int(1000 * time.time()) + 2000 * DAY_S}-9": str(int(1000 * time.time()) + 1000 * DAY_S),
        "x": "y",
    }
    await redis.hset(horizons(jobs), mapping=tomorrow)

    assert await janitor_of(redis, policy, seconds=3600).trim(jobs) == 0
    assert await redis.hlen(horizons(jobs)) == 1
    assert await janitor_of(redis, policy, seconds=0).trim(jobs) == 4


async def test_a_clock_that_was_never_ahead_leaves_no_notes(redis: Redis, policy: str) -> None:
    jobs = Keys(policy).jobs(0)
    await redis.xgroup_create(jobs, GROUP, id="0", mkstream=True)
    await redis.xadd(jobs, {"payload": b"x"})
    await redis.xreadgroup(GROUP, "w", {jobs: ">"})

    await janitor_of(redis, policy, seconds=3600).trim(jobs)

    assert not await redis.exists(horizons(jobs))


def test_a_worker_that_died_then_is_not_taken_for_live(redis_url: str, policy: str, queue: Queue) -> None:
    ghost: Any = {"state": "serving", "seen_at": time.time() + DAY_S}
    report_of(queue.redis, queue.keys, "ghost", ghost, DAY_S + 16, ahead_s=DAY_S)
    queue.redis.xadd(queue.jobs_key, {"payload": b"x"}, id=f"{int(1000 * time.time()) + 1000 * DAY_S}-1")

    run = CliRunner().invoke
    status = run(app, ["status", "--redis", redis_url, "--policy", policy], env={"COLUMNS": "200"})
    drained = run(app, ["drain", "--redis", redis_url, "--policy", policy, "ghost", "--wait", "--timeout", "5"])

    assert "ghost" not in status.output
    assert "ahead of Redis' clock, which was set back" in " ".join(status.output.split())
    assert (drained.exit_code, "no live worker" in drained.output) == (1, True)


def test_no_report_of_a_live_worker_is_taken_for_one_of_then() -> None:
    assert not is_outlived(report_ttl_s(LONGEST_HEARTBEAT_S))
    assert is_outlived(3 * LONGEST_HEARTBEAT_S + 60)


def test_the_doctor_names_ids_that_are_ahead_and_streams_that_are_full() -> None:
    found = partition({"ids_ahead_s": 7200.0}, ended=("rs:{p:0}:dead",))
    fine = partition()

    told = {one.check: (one.level, one.seen) for one in stream_findings(found)}

    assert told["ids"][0] == "warn"
    assert "2 h 0 min ahead" in told["ids"][1]
    assert told["last id"][0] == "fail"
    assert "rs:{p:0}:dead" in told["last id"][1]
    assert [one.check for one in stream_findings(replace(fine, no_version="2147483648-0"))] == ["versions"]
    assert list(stream_findings(fine)) == []
    assert list(stream_findings(replace(fine, partitions=()))) == []
