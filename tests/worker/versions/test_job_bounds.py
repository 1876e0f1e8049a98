"""A job for a newer version waits without keeping anybody busy; one that would be too stale is answered with that."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, cast

import pytest

from rollstream import Client, ErrorCode
from rollstream.producer.doctor.finding import OK
from rollstream.producer.doctor.probe import probe
from rollstream.producer.doctor.queue_checks import queue_findings
from rollstream.schemas import Job
from rollstream.schemas.keys import GROUP
from rollstream.schemas.parked import VERSION_PREFIX, ParkedFor
from rollstream.worker.adapters.folder import AdapterDirectory
from rollstream.worker.adapters.supply import AdapterSupply
from rollstream.worker.config import WorkerSettings
from rollstream.worker.delivery.lease import Lease
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.intake.parking import Parking
from rollstream.worker.redis_io.connections import connect
from rollstream.worker.versions.announcements import Announced
from rollstream.worker.versions.follower import Policy, Served
from rollstream.worker.versions.job_bounds import must_wait, outside_the_policy, too_stale
from tests.support.fault_steps import (
    LEASE_S,
    SLACK_S,
    SWEEP_S,
    holder,
    is_of,
    kill,
    stub,
    tokens,
    wait_until_done,
    wait_until_held,
    wait_until_logged,
)
from tests.support.faults import Holder, Link, Queue, audit
from tests.support.lua import lua_file
from tests.support.versions import announce, codes, spans, wait_until_serves
from tests.support.worker_process import WorkerProcess, wait_for
from tests.worker.jobs.test_deadlines import job_of

PROMPT_S = 0.4
"""In the median, from publish to answer: what no period of half a second allows."""
TAKEN_S = 1.5
"""Within which a worker that is new enough takes a job that was parked."""


def wait_until_parked(worker: WorkerProcess, queue: Queue, version: int, count: int = 1) -> None:
    def parked() -> bool:
        holders = list(queue.holders().values())
        return [found.consumer for found in holders].count(ParkedFor(version).consumer) == count

    wait_for(parked, 10, lambda: f"{queue.holders()}\n{worker.log}")


@pytest.mark.parametrize(
    ("served", "newest", "minimum", "staleness", "waits", "stale"),
    [
        (0, 0, 0, None, False, False),
        (4, 9, 5, None, True, False),
        (5, 9, 5, None, False, False),
        (5, 9, 0, 4, False, False),
        (5, 9, 0, 3, False, True),
        (5, 5, 0, 0, False, False),
        (5, 6, 0, 0, False, True),
    ],
)
def test_which_jobs_wait_and_which_are_too_stale(
    served: int, newest: int, minimum: int, staleness: int | None, waits: bool, stale: bool
) -> None:
    job: Job = job_of(min_policy_version=minimum, max_staleness=staleness)

    error = too_stale(job, served, newest, "")

    assert (must_wait(job, served), error is not None) == (waits, stale)


def test_what_a_stale_jobs_error_says() -> None:
    error = too_stale(job_of(max_staleness=3), 5, 9, "")

    assert error is not None
    assert (error.code, error.field) == (ErrorCode.TOO_STALE, "max_staleness")
    assert "policy version 5 would sample it, 4 behind the newest (9)" in error.message
    assert "wait_for_version" in error.message


def test_a_stale_jobs_error_says_why_the_newest_is_not_served() -> None:
    error = too_stale(job_of(max_staleness=3), 5, 9, "checkpoint step-9: half-written")

    assert error is not None
    assert "publish a version that it can serve, for it refused 9: checkpoint step-9: half-written" in error.message
    assert "wait_for_version" not in error.message


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"adapter": "math@1"}, None),
        ({"min_policy_version": 3, "max_staleness": 0}, None),
        ({"adapter": "math@1", "min_policy_version": 3}, "min_policy_version"),
        ({"adapter": "math@1", "max_staleness": 0}, "max_staleness"),
    ],
)
def test_which_jobs_ask_for_a_version_that_their_own_adapter_leaves_out(
    fields: dict[str, Any], field: str | None
) -> None:
    error = outside_the_policy(job_of(**fields))

    assert (error and (error.code, error.field)) == (field and (ErrorCode.INVALID_CONFIG, field))
    assert error is None or "publish that adapter as the policy" in error.message


def test_under_a_policy_of_adapters_version_bounds_and_an_adapter_of_ones_own_are_refused_together(
    redis_url: str, policy: str, client: Client, queue: Queue, adapter_dir: Path, tiny_model: Path
) -> None:
    with stub(redis_url, policy, "--lora", "--model", str(tiny_model)) as worker:
        own = client.publish_adapter("own", 1, adapter_dir / "code@1")
        client.publish_policy(3, adapter=adapter_dir / "math@1")
        client.wait_for_version(3, timeout=10)
        bounds: list[dict[str, Any]] = [{"min_policy_version": 3}, {"min_policy_version": 5}, {"max_staleness": 0}, {}]
        batches = [client.submit([[5]], None, tokens(), adapter=own, **bound).batch_id for bound in bounds]
        for batch_id in batches:
            wait_until_done(queue, batch_id, 1, worker)

    found = [codes(redis_url, queue, batch_id, 1) for batch_id in batches]
    assert found == [["invalid_config"]] * 3 + [[None]]
    assert spans(redis_url, queue, batches[-1], 1) == [((0, 10),)]


def test_an_older_worker_leaves_a_job_to_a_newer_one_which_takes_it_at_once(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    with stub(redis_url, policy, lease_s=30) as old:
        batch = client.submit([[5], [6]], None, tokens(), min_policy_version=1, prompts_per_job=1)
        wait_until_parked(old, queue, 1, count=2)
        client.publish_policy(1, checkpoint=steps / "step-1")
        with stub(redis_url, policy, "--checkpoint-dir", str(steps), lease_s=30) as new:
            wait_until_done(queue, batch.batch_id, 2, new)
            for row in range(4):
                began = time.monotonic()
                next_one = client.submit([[7 + row]], None, tokens(), min_policy_version=1)
                wait_until_done(queue, next_one.batch_id, 1, old, new)
                assert time.monotonic() - began < TAKEN_S
                (answer,) = audit(redis_url, policy, next_one.batch_id, 1)
                assert is_of(answer.worker, new)

    assert spans(redis_url, queue, batch.batch_id, 2) == [((1, 10),)] * 2
    assert [getattr(answer, "delivery", None) for answer in audit(redis_url, policy, batch.batch_id, 2)] == [1, 1]
    assert "job started" not in old.log


def test_a_worker_that_catches_up_takes_what_it_left_at_once_and_has_not_spun_meanwhile(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    with stub(redis_url, policy, "--checkpoint-dir", str(steps), lease_s=30) as worker:
        gated = client.submit([[5]], None, tokens(), min_policy_version=1)
        later = client.submit([[5]], None, tokens(), min_policy_version=2)
        others = client.submit([[6 + row] for row in range(20)], None, tokens(), prompts_per_job=1)
        wait_until_done(queue, others.batch_id, 20, worker)
        wait_until_parked(worker, queue, 1)
        wait_until_parked(worker, queue, 2)
        assert [found.deliveries for found in queue.holders().values()] == [0, 0]
        time.sleep(2 * SWEEP_S)  # sweeps go by, which is no state to wait for
        assert worker.log.count("job waits for a newer version") == 2

        client.publish_policy(1, checkpoint=steps / "step-1")
        client.wait_for_version(1, timeout=10)
        began = time.monotonic()
        wait_until_done(queue, gated.batch_id, 1, worker)
        assert time.monotonic() - began < TAKEN_S
        wait_until_parked(worker, queue, 2)
        client.publish_policy(2, checkpoint=steps / "step-2")
        wait_until_done(queue, later.batch_id, 1, worker)

    assert spans(redis_url, queue, gated.batch_id, 1) == [((1, 10),)]
    assert spans(redis_url, queue, later.batch_id, 1) == [((2, 10),)]


def test_many_parked_jobs_keep_no_other_waiting_and_burn_no_delivery(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    flags = ("--checkpoint-dir", str(steps), "--max-deliveries", "1")
    with stub(redis_url, policy, *flags, at_once=8, lease_s=2 * LEASE_S) as worker:
        gated = client.submit(
            [[5 + row] for row in range(100)], None, tokens(), prompts_per_job=1, min_policy_version=1
        )
        wait_until_parked(worker, queue, 1, count=100)
        wait_until_logged(worker, "job taken over")  # the sweep looks at them when their lease would be over
        for row in range(10):
            began = time.monotonic()
            other = client.submit([[5 + row]], None, tokens())
            wait_until_done(queue, other.batch_id, 1, worker)
            assert time.monotonic() - began < SLACK_S
        wait_for(lambda: worker.log.count("job waits for a newer version") > 200, 20, lambda: worker.log[-2000:])

        client.publish_policy(1, checkpoint=steps / "step-1")
        wait_until_done(queue, gated.batch_id, 100, worker)

    assert set(spans(redis_url, queue, gated.batch_id, 100)) == {((1, 10),)}


def test_what_was_announced_before_a_job_counts_for_it_however_soon_it_comes(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    with stub(redis_url, policy, "--checkpoint-dir", str(steps), lease_s=30) as worker:
        for version in range(1, 21):
            announce(queue, version, "nowhere")
            batch = client.submit([[5]], None, tokens(), max_staleness=version - 1)
            wait_until_done(queue, batch.batch_id, 1, worker)
            assert codes(redis_url, queue, batch.batch_id, 1) == ["too_stale"]


def test_a_job_for_a_version_is_answered_as_soon_as_its_worker_serves_it(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    took = []
    with stub(redis_url, policy, "--checkpoint-dir", str(steps), lease_s=30) as worker:
        for version in range(1, 8):
            began = time.monotonic()
            client.publish_policy(version, checkpoint=steps / "step-1")
            batch = client.submit([[5], [6]], None, tokens(), min_policy_version=version)
            wait_until_done(queue, batch.batch_id, 2, worker)
            took.append(time.monotonic() - began)

    assert sorted(took)[3] < PROMPT_S, took


def test_jobs_that_waited_come_before_new_ones_on_a_busy_worker(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    with stub(redis_url, policy, "--checkpoint-dir", str(steps), group_s=0.1, at_once=1, lease_s=30) as worker:
        gated = client.submit([[5]], None, tokens(), min_policy_version=1)
        wait_until_parked(worker, queue, 1)
        backlog = client.submit([[6 + row] for row in range(200)], None, tokens(), prompts_per_job=1)
        wait_until_done(queue, backlog.batch_id, 2, worker)
        client.publish_policy(1, checkpoint=steps / "step-1")
        wait_until_serves(worker, queue, 1)
        before = queue.done(backlog.batch_id)
        wait_until_done(queue, gated.batch_id, 1, worker)

        assert queue.done(backlog.batch_id) - before < 10, "it waited for the backlog"
        client.attach(backlog.batch_id).cancel()


def test_a_parked_job_whose_queue_deadline_passes_is_answered_by_an_older_worker(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    with stub(redis_url, policy) as worker:
        batch = client.submit([[5], [6]], None, tokens(), min_policy_version=1, queue_deadline_s=0.5)
        wait_until_done(queue, batch.batch_id, 2, worker, timeout_s=0.5 + LEASE_S + SWEEP_S + SLACK_S)

    assert codes(redis_url, queue, batch.batch_id, 2) == ["queue_deadline"] * 2
    assert "job waits for a newer version" in worker.log


def test_a_parked_job_of_a_cancelled_batch_leaves_the_queue(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    with stub(redis_url, policy) as worker:
        batch = client.submit([[5]], None, tokens(), min_policy_version=1)
        wait_until_parked(worker, queue, 1)
        batch.cancel()
        wait_for(lambda: queue.holders() == {}, LEASE_S + SWEEP_S + SLACK_S, lambda: worker.log)

    assert codes(redis_url, queue, batch.batch_id, 1) == ["cancelled"]


def test_a_parked_job_that_others_have_answered_leaves_the_queue(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    with stub(redis_url, policy) as worker:
        batch = client.submit([[5]], None, tokens(), min_policy_version=1)
        wait_until_parked(worker, queue, 1)
        queue.redis.hset(queue.keys.ledger(batch.batch_id), "g:0", "another entry")
        wait_for(lambda: queue.holders() == {}, LEASE_S + SWEEP_S + SLACK_S, lambda: worker.log)


def test_a_worker_killed_with_a_job_that_had_waited_loses_nothing(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    flags = ("--checkpoint-dir", str(steps))
    with stub(redis_url, policy) as old:
        batch = client.submit([[5]], None, tokens(), min_policy_version=1)
        wait_until_parked(old, queue, 1)
        client.publish_policy(1, checkpoint=steps / "step-1")
        with stub(redis_url, policy, *flags, group_s=60) as first:
            wait_until_held(first, queue)
            assert holder(queue) is not None
            kill(first)
        with stub(redis_url, policy, *flags) as second:
            wait_until_done(queue, batch.batch_id, 1, second)

    (answer,) = audit(redis_url, policy, batch.batch_id, 1)
    assert (is_of(answer.worker, second), getattr(answer, "delivery", None)) == (True, 2)


def test_a_job_that_would_be_too_stale_is_answered_with_that_and_nothing_is_generated(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    with stub(redis_url, policy) as worker:
        client.publish_policy(1, checkpoint=steps / "step-1")
        client.publish_policy(3, checkpoint=steps / "step-2")
        strict = client.submit([[5], [6]], None, tokens(), max_staleness=2)
        lenient = client.submit([[7]], None, tokens(), max_staleness=3)
        wait_until_done(queue, strict.batch_id, 2, worker)
        wait_until_done(queue, lenient.batch_id, 1, worker)

    assert codes(redis_url, queue, strict.batch_id, 2) == ["too_stale"] * 2
    assert codes(redis_url, queue, lenient.batch_id, 1) == [None]
    assert worker.log.count("kind=group") == 1


def test_parked_jobs_are_no_orphans_to_the_doctor(redis_url: str, policy: str, client: Client, queue: Queue) -> None:
    with stub(redis_url, policy, lease_s=30) as worker:
        announce(queue, 7, "nowhere")
        client.submit([[5]], None, tokens(), min_policy_version=7)
        wait_until_parked(worker, queue, 7)
        idle_s = 0.4
        wait_for(lambda: queue.idle_s() > 1.5 * idle_s, 10, lambda: worker.log)

        found = {one.check: one for one in queue_findings(asyncio.run(probe(redis_url, queue.keys, idle_s)))}

    assert [found[check].level for check in ("consumers", "stranded", "version gate")] == [OK] * 3
    assert found["version gate"].seen == "jobs wait for policy version 7 (1)"


def script(queue: Queue, name: str, *args: Any) -> Any:
    text = lua_file(name).read_text()
    return cast("Any", queue.redis).eval(text, 1, queue.jobs_key, GROUP, *args)


def delivered(queue: Queue, consumer: str) -> bytes:
    """A new entry, delivered once."""
    entry_id = cast("bytes", queue.redis.xadd(queue.jobs_key, {"n": 1}))
    queue.redis.xreadgroup(GROUP, consumer, {queue.jobs_key: ">"})
    return entry_id


def test_only_the_holder_of_the_lease_parks_and_a_repeat_changes_nothing(queue: Queue) -> None:
    queue.redis.xgroup_create(queue.jobs_key, GROUP, id="0", mkstream=True)
    entry_id = delivered(queue, "one")

    for consumer, delivery in (("two", 1), ("one", 2)):
        assert script(queue, "park.lua", consumer, entry_id, delivery, "parked:version:5") == b"fenced"
    assert holder(queue) == Holder("one", 1)

    assert script(queue, "park.lua", "one", entry_id, 1, "parked:version:5") == b"parked"
    assert script(queue, "park.lua", "one", entry_id, 1, "parked:version:5") == b"fenced"
    assert holder(queue) == Holder("parked:version:5", 0)


async def test_a_park_sent_again_after_a_lost_reply_does_not_take_our_own_next_delivery(
    redis_url: str, policy: str, queue: Queue
) -> None:
    queue.redis.xgroup_create(queue.jobs_key, GROUP, id="0", mkstream=True)
    entry_id = delivered(queue, "one").decode()
    with Link(redis_url) as link:
        redis = connect(link.url)
        engine = StubEngine(WorkerSettings(policy=policy, engine="stub"))
        adapters = AdapterSupply(engine, AdapterDirectory(None, 16, None), None)
        versions = Policy(redis, queue.keys, engine, adapters, None, "keep", lambda: None)
        versions.serving = Served(Announced(5))
        parking = Parking(redis, [queue.jobs_key], "one", versions)
        link.lose_reply(to=b"parked:version:", holding=b"parked")
        lease = Lease(queue.jobs_key, "dead", entry_id, "one", 1, ends_at=time.monotonic() + 30)

        parked = asyncio.create_task(parking.park(lease, 5))
        await asyncio.to_thread(wait_for, lambda: link.lost == 1, 10, lambda: "no reply was lost")
        (taken,) = await parking.next()
        await parked
        await redis.aclose()

    assert (taken.entry_id, taken.delivery) == (entry_id, 1)
    assert holder(queue) == Holder("one", 1)


def test_what_waits_for_us_or_an_older_version_is_taken_oldest_first_with_its_count(queue: Queue) -> None:
    queue.redis.xgroup_create(queue.jobs_key, GROUP, id="0", mkstream=True)
    ids = [delivered(queue, "one") for _ in range(4)]
    for entry_id, version in zip(ids, (10, 9, 9, 9), strict=True):
        script(queue, "park.lua", "one", entry_id, 1, ParkedFor(version).consumer)
    queue.redis.xdel(queue.jobs_key, ids[1])

    assert script(queue, "unpark.lua", "new", VERSION_PREFIX, 8) == [0]
    assert script(queue, "unpark.lua", "new", VERSION_PREFIX, 9) in ([1], [0, ids[2], 1, [b"n", b"1"]])
    taken = [script(queue, "unpark.lua", "new", VERSION_PREFIX, 9) for _ in range(3)]

    assert [0, ids[3], 1, [b"n", b"1"]] in taken
    assert taken[-1] == [0]
    assert {found.consumer for found in queue.holders().values()} == {"new", "parked:version:10"}
    assert ids[1].decode() not in queue.holders()
