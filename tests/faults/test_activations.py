"""A worker, a trainer or Redis dies, comes late or loses its data: the fleet ends on what the streams say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rollstream import Client
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.schemas.wire.policies import Activate
from tests.support.fault_steps import kill, stub, stub_flags, stubs, tokens, wait_until_done
from tests.support.faults import Queue
from tests.support.weights.probes import stub_probe
from tests.support.weights.versions import (
    BY_HAND,
    announce,
    announce_step,
    report,
    spans,
    wait_until_reported,
    wait_until_serves,
)
from tests.support.worker_process import running_worker

SHARED = Activate(when="when_prepared", share=1.0)


def test_a_fleet_flips_once_all_live_workers_are_prepared_and_late_ones_follow(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    flags = (*stub_flags(), "--checkpoint-dir", str(steps))
    probe = stub_probe(2, vocab_size=1000)
    with stubs(redis_url, policy, *flags) as (first, second):
        announce_step(queue, steps, 1)
        for worker in (first, second):
            wait_until_serves(worker, queue, 1)
        kill(second)
        announce_step(queue, steps, 2, SHARED, probe)
        wait_until_serves(first, queue, 2)
        assert "nats off" in report(first, queue)["policy_proof"]

        with stub(redis_url, policy, "--checkpoint-dir", str(steps)) as late:
            assert report(late, queue)["policy_version"] == "2", "it served before it had the active version"
            announce_step(queue, steps, 3, SHARED, step=1)
            for worker in (first, late):
                wait_until_serves(worker, queue, 3)

    entries: Any = queue.redis.xrange(queue.keys.activations())
    assert [entry_id for entry_id, _ in entries] == [b"2-0", b"3-0"]


def test_a_worker_that_cannot_prepare_holds_the_others_until_the_time_is_up_and_then_serves_on(
    redis_url: str, policy: str, queue: Queue, steps: Path
) -> None:
    with (
        stub(redis_url, policy, "--checkpoint-dir", str(steps)) as able,
        stub(redis_url, policy) as unable,
    ):
        announce_step(queue, steps, 1, Activate(when="when_prepared", timeout_s=3.0))
        wait_until_reported(able, queue, prepared_version="1", policy_version="0", announced_version="1")
        wait_until_serves(able, queue, 1)
        wait_until_reported(unable, queue, policy_version="0", newest_version="1", state="serving")
        assert "without --checkpoint-dir" in report(unable, queue)["policy_error"]


def test_what_a_killed_trainer_announced_and_never_activated_waits_until_somebody_does(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    announce_step(queue, steps, 1)
    announce_step(queue, steps, 2, BY_HAND)
    with stub(redis_url, policy, "--checkpoint-dir", str(steps)) as worker:
        wait_until_reported(worker, queue, policy_version="1", prepared_version="2", state="serving")
        before = client.submit([[5]], None, tokens(), max_staleness=0)
        wait_until_done(queue, before.batch_id, 1, worker)

        client.activate(2)
        after = client.submit([[5]], None, tokens(), min_policy_version=2, max_staleness=0)
        wait_until_done(queue, after.batch_id, 1, worker)

    assert spans(redis_url, queue, before.batch_id, 1) == [((1, 10),)]
    assert spans(redis_url, queue, after.batch_id, 1) == [((2, 10),)]


def test_a_redis_that_restarts_between_announcement_and_activation_loses_neither(policy: str, steps: Path) -> None:
    with (
        EmbeddedRedis(appendonly=True) as server,
        Queue(server.url, policy) as queue,
        Client(server.url, policy=policy, reconnect_s=30) as client,
        stub(server.url, policy, "--checkpoint-dir", str(steps), lease_s=10) as worker,
    ):
        announce_step(queue, steps, 1, BY_HAND)
        wait_until_reported(worker, queue, prepared_version="1", policy_version="0")
        server.kill()
        server.start()
        client.activate(1)
        server.kill()
        server.start()
        wait_until_serves(worker, queue, 1)


def test_workers_of_a_redis_that_lost_all_serve_on_until_something_is_activated_again(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    with stub(redis_url, policy, "--checkpoint-dir", str(steps)) as worker:
        for version in (4, 5):
            announce_step(queue, steps, version, BY_HAND, step=1)
            client.activate(version)
        wait_until_serves(worker, queue, 5)
        queue.redis.delete(*queue.redis.keys(f"rs:{{{policy}*"))

        announce_step(queue, steps, 2, BY_HAND)
        wait_until_reported(worker, queue, policy_version="5", prepared_version="2", state="serving")
        before = client.submit([[5]], None, tokens())
        wait_until_done(queue, before.batch_id, 1, worker)
        client.activate(2)
        wait_until_reported(worker, queue, policy_version="2", newest_version="2", state="serving")

    assert spans(redis_url, queue, before.batch_id, 1) == [((5, 10),)]


def test_an_activated_version_that_cannot_be_had_any_more_is_refused_by_name(
    redis_url: str, policy: str, client: Client, queue: Queue, steps: Path
) -> None:
    for version in (1, 2, 3):
        announce(queue, version, f"step-{version}", activate=BY_HAND)
    client.activate(2)
    queue.redis.xdel(queue.keys.versions(), "2-0")
    flags = (*stub_flags(), "--checkpoint-dir", str(steps))
    with running_worker(redis_url, policy, *flags, state=b"paused") as worker:
        wait_until_reported(worker, queue, policy_version="0", newest_version="2", paused_for="policy")
        assert "its announcement is gone" in report(worker, queue)["policy_error"]

        announce_step(queue, steps, 4, step=1)
        wait_until_serves(worker, queue, 4)
