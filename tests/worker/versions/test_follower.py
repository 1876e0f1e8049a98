"""Workers follow the versions stream: the newest complete one is served, whatever dies or comes late."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from rollstream import Client
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.errors import EngineDiedError
from rollstream.worker.redis_io.connections import connect
from rollstream.worker.weights import checkpoint
from tests.support.fault_steps import (
    LEASE_S,
    kill,
    stub,
    stub_flags,
    tokens,
    wait_until_done,
    wait_until_held,
    wait_until_logged,
)
from tests.support.faults import Queue, audit
from tests.support.weights.versions import (
    announce,
    codes,
    follower_of,
    publish,
    spans,
    wait_until_reported,
    wait_until_serves,
)
from tests.support.worker_process import WorkerProcess, wait_for


def endless_file(folder: Path) -> None:
    """A checkpoint whose digest takes minutes, without a disk."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(200 * 2**30)


def test_a_swap_under_load_loses_nothing_and_every_token_says_its_version(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    with stub(redis_url, policy, "--checkpoint-dir", str(steps), group_s=0.05, at_once=16) as worker:
        batch = client.submit([[5 + row] for row in range(24)], None, tokens(200), prompts_per_job=3)
        wait_for(lambda: worker.log.count("job started") >= 6, 30, lambda: worker.log)
        publish(client, steps, 1)
        client.wait_for_version(1, timeout=30)
        assert queue.done(batch.batch_id) == 0, "nothing was in flight during the swap"
        publish(client, steps, 2)
        wait_until_serves(worker, queue, 2)
        wait_until_done(queue, batch.batch_id, 24, worker)
        after = client.submit([[5]], None, tokens(7))
        wait_until_done(queue, after.batch_id, 1, worker)

    found = spans(redis_url, queue, batch.batch_id, 24)
    for of_one in found:
        versions = [version for version, _ in of_one]
        assert versions == sorted(set(versions))
    first = [of_one for of_one in found if of_one[0][0] == 0]
    assert len(first) == 16, "jobs waited for a swap"
    assert {len(of_one) > 1 for of_one in first} == {True}, "no completion lived through a swap"
    assert spans(redis_url, queue, after.batch_id, 1) == [((2, 7),)]


def test_a_worker_that_starts_late_loads_the_newest_version_before_its_first_job(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    publish(client, steps, 1, 3)
    batch = client.submit([[5], [6]], None, tokens())
    with stub(redis_url, policy, "--checkpoint-dir", str(steps)) as worker:
        wait_until_done(queue, batch.batch_id, 2, worker)
        assert worker.log.index("policy version served") < worker.log.index("job started")

    assert spans(redis_url, queue, batch.batch_id, 2) == [((3, 10),)] * 2


def test_while_the_first_version_loads_nothing_is_admitted_and_a_drain_ends_it_at_once(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    endless_file(steps / "endless")
    announce(queue, 4, "endless")
    batch = client.submit([[5]], None, tokens())
    worker = WorkerProcess(redis_url, policy, *stub_flags(), "--checkpoint-dir", str(steps))
    try:
        wait_until_reported(worker, queue, 20, state="starting")
        wait_until_logged(worker, "loading policy version")
        assert (queue.done(batch.batch_id), queue.holders()) == (0, {})

        assert worker.terminate(timeout_s=5) == 0, worker.log
    finally:
        worker.end()


def test_a_version_that_takes_long_to_load_stops_neither_jobs_nor_a_drain(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    endless_file(steps / "endless")
    with stub(redis_url, policy, "--checkpoint-dir", str(steps)) as worker:
        announce(queue, 4, "endless")
        wait_until_reported(worker, queue, loading_version="4", policy_version="0")
        batch = client.submit([[5]], None, tokens())
        wait_until_done(queue, batch.batch_id, 1, worker)

        assert worker.terminate(timeout_s=5) == 0, worker.log


class DyingEngine(StubEngine):
    async def load_checkpoint(self, *_: object) -> float:
        raise EngineDiedError("its process ended")


async def test_an_engine_that_dies_while_it_loads_ends_the_role(
    redis_url: str, policy: str, queue: Queue, steps: Path
) -> None:
    engine, redis = DyingEngine(WorkerSettings(policy=policy, engine="stub")), connect(redis_url)
    follower = follower_of(redis, queue, engine, steps)
    await follower.begin()
    announce(queue, 1, "step-1", checkpoint.digest(steps / "step-1"))

    with pytest.raises(ExceptionGroup) as died:
        await asyncio.wait_for(follower.run(), 20)
    await redis.aclose()

    assert died.group_contains(EngineDiedError)


def test_a_drain_during_a_swap_that_waits_for_completions_ends_within_its_grace(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    flags = ("--checkpoint-dir", str(steps), "--swap", "wait", "--grace-s", "0.5")
    with stub(redis_url, policy, *flags, group_s=30, lease_s=30) as worker:
        client.submit([[5]], None, tokens())
        wait_until_held(worker, queue)
        publish(client, steps, 1)
        wait_until_logged(worker, "loading policy version")

        assert worker.terminate(timeout_s=5) == 0, worker.log


def test_the_newest_version_is_heard_of_while_another_loads(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    endless_file(steps / "endless")
    with stub(redis_url, policy, "--checkpoint-dir", str(steps)) as worker:
        announce(queue, 1, "endless")
        wait_until_logged(worker, "loading policy version")
        announce(queue, 7, "step-1")
        strict = client.submit([[5]], None, tokens(), max_staleness=6)
        lenient = client.submit([[5]], None, tokens(), max_staleness=7)
        wait_until_done(queue, strict.batch_id, 1, worker)
        wait_until_done(queue, lenient.batch_id, 1, worker)
        wait_until_reported(worker, queue, policy_version="0", newest_version="7", policy_error="")

        assert worker.terminate(timeout_s=5) == 0, worker.log

    assert codes(redis_url, queue, strict.batch_id, 1) == ["too_stale"]
    assert codes(redis_url, queue, lenient.batch_id, 1) == [None]


def test_redis_killed_between_announcement_and_load_delays_the_version_and_loses_nothing(
    policy: str, steps: Path
) -> None:
    with (
        EmbeddedRedis(appendonly=True) as server,
        Queue(server.url, policy) as queue,
        Client(server.url, policy=policy, reconnect_s=30) as client,
        stub(server.url, policy, "--checkpoint-dir", str(steps), group_s=2.0, lease_s=10) as worker,
    ):
        batch = client.submit([[5], [6]], None, tokens(40))
        wait_until_held(worker, queue)
        os.kill(worker.process.pid, signal.SIGSTOP)
        publish(client, steps, 1)
        server.kill()
        os.kill(worker.process.pid, signal.SIGCONT)
        wait_until_logged(worker, "heartbeat missed")
        assert worker.process.poll() is None
        server.start()
        wait_until_serves(worker, queue, 1)
        wait_until_done(queue, batch.batch_id, 2, worker)

        assert [of_one[-1][0] for of_one in spans(server.url, queue, batch.batch_id, 2)] == [1, 1]


def test_a_worker_killed_during_a_swap_comes_back_with_the_newest_version(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    flags = ("--checkpoint-dir", str(steps), "--swap", "wait")
    with stub(redis_url, policy, *flags, group_s=30, lease_s=LEASE_S) as first:
        batch = client.submit([[5], [6]], None, tokens())
        wait_until_held(first, queue)
        publish(client, steps, 1)
        wait_until_logged(first, "loading policy version")
        kill(first)
    publish(client, steps, 2)
    with stub(redis_url, policy, *flags) as second:
        wait_until_serves(second, queue, 2)
        wait_until_done(queue, batch.batch_id, 2, second)

    assert spans(redis_url, queue, batch.batch_id, 2) == [((2, 10),)] * 2
    audit(redis_url, policy, batch.batch_id, 2)
