"""What Kubernetes asks a worker, of real processes: ready only while it serves, live while it steps."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from rollstream import Client
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.schemas.hashes.worker_report import WorkerState
from rollstream.worker.operations.health import LIVE, READY, STARTUP, Health
from tests.support.fault_steps import stub, stub_flags, tokens, wait_until_held, wait_until_logged
from tests.support.faults import Queue
from tests.support.processes.halts import Halt
from tests.support.watching.scraping import logged_port
from tests.support.worker_process import WorkerProcess, running_worker, wait_for

PORT = ("--metrics-port", "auto", "--metrics-host", "127.0.0.1")
SOON_S = 1.0


def asked(worker: WorkerProcess, path: str) -> tuple[int, str]:
    """Status and text, which come at once."""
    began = time.monotonic()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{logged_port(worker)}{path}", timeout=5) as reply:
            told = reply.status, reply.read().decode().strip()
    except urllib.error.HTTPError as error:
        with error:
            told = error.code, error.read().decode().strip()
    assert time.monotonic() - began < SOON_S
    return told


def test_a_worker_is_ready_while_it_serves_and_not_while_it_is_paused_or_drains(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    with stub(redis_url, policy, *PORT, group_s=1.5) as worker:
        serving = [asked(worker, path) for path in (STARTUP, READY, LIVE)]
        queue.redis.hset(queue.keys.control(), "paused", "1")
        wait_for(lambda: asked(worker, READY)[0] == 503, 20, lambda: worker.log)
        paused = [asked(worker, path) for path in (STARTUP, READY, LIVE)]
        queue.redis.hdel(queue.keys.control(), "paused")
        wait_for(lambda: asked(worker, READY)[0] == 200, 20, lambda: worker.log)
        handle = client.submit([[5]], None, tokens())
        wait_until_held(worker, queue)
        worker.process.terminate()
        wait_for(lambda: asked(worker, READY)[0] == 503, 2, lambda: worker.log)
        draining = [asked(worker, path) for path in (STARTUP, READY, LIVE)]
        handle.wait(20)
        assert worker.process.wait(20) == 0

    assert serving == [(200, "started"), (200, "serving"), (200, "live")]
    assert paused == [(200, "started"), (503, "paused: operator"), (200, "live")]
    assert draining == [(200, "started"), (503, "draining"), (200, "live")]


def test_a_worker_that_waits_for_redis_lives_and_is_not_ready(redis_url: str, policy: str) -> None:
    with EmbeddedRedis() as own:
        own.stop()
        worker = WorkerProcess(own.url, policy, *stub_flags(), *PORT)
        try:
            found = [asked(worker, path) for path in (STARTUP, READY, LIVE)]
        finally:
            worker.end()

    assert found == [(503, "starting"), (503, "starting"), (200, "live")]


def test_redis_away_fails_no_probe(policy: str) -> None:
    with EmbeddedRedis(appendonly=True) as own, stub(own.url, policy, *PORT, "--engine-timeout-s", "1") as worker:
        own.kill()
        wait_until_logged(worker, "heartbeat missed")
        until = time.monotonic() + 2.5  # longer than the limit of the probe
        found = set[tuple[int, str]]()
        while time.monotonic() < until:
            found |= {asked(worker, path) for path in (STARTUP, READY, LIVE)}
        own.start()

        assert found == {(200, "started"), (200, "serving"), (200, "live")}


@pytest.fixture
def hanging(redis_url: str, policy: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[WorkerProcess]:
    """A worker that hangs at the place of the test's parameter once a job has come."""
    halt = Halt(request.param, tmp_path / "halt")
    flags = [*stub_flags(), *PORT, "--engine-timeout-s", "1"]
    with Client(redis_url, policy=policy) as client, running_worker(redis_url, policy, *flags, env=halt.env) as worker:
        assert asked(worker, LIVE) == (200, "live")
        halt.arm()
        handle = client.submit([[5]], None, tokens())
        halt.wait_until_reached(lambda: worker.log, 30)
        yield worker
        halt.go_on()
        handle.wait(30)


@pytest.mark.parametrize(
    ("hanging", "said"),
    [("engine answers", "the engine has not answered for"), ("engine plans", "the event loop has stood still for")],
    indirect=["hanging"],
)
def test_a_worker_that_hangs_longer_than_the_limit_is_neither_live_nor_ready(hanging: WorkerProcess, said: str) -> None:
    wait_for(lambda: asked(hanging, LIVE)[0] == 503, 20, lambda: str(asked(hanging, LIVE)))

    for path in (LIVE, READY):
        status, text = asked(hanging, path)
        assert (status, text[: len(said)]) == (503, said)
    assert asked(hanging, STARTUP)[0] == 200


class Clock:
    """A worker's health by a clock that the test sets, while the event loop turns."""

    def __init__(self, *, engine_timeout_s: float = 100.0, load_timeout_s: float = 1000.0) -> None:
        self._now = 5.0
        self._is_loading = False
        limits = {"engine_timeout_s": engine_timeout_s, "load_timeout_s": load_timeout_s}
        self.health = Health(**limits, clock=lambda: self._now)
        self.health.follow(state=lambda: WorkerState.SERVING, paused_for=tuple, is_loading=lambda: self._is_loading)

    def after(self, seconds: float, *, is_loading: bool = False) -> tuple[int, ...]:
        """What is said of start, readiness and life then."""
        self._is_loading = is_loading
        self._now += seconds
        self.health.turned()
        return tuple(page().status.value for page in self.health.pages().values())


def test_a_start_that_blocks_the_process_lives_however_long_it_takes() -> None:
    assert Clock().after(1e6) == (503, 200, 200)


def test_an_engine_may_be_silent_for_half_as_long_again_as_the_watchdog_waits() -> None:
    clock = Clock()
    clock.health.started()

    assert [clock.after(149), clock.after(2)] == [(200, 200, 200), (200, 503, 503)]
    clock.health.stepped()
    assert clock.after(1) == (200, 200, 200)


def test_a_load_of_weights_has_a_limit_of_its_own_and_what_follows_that_of_steps() -> None:
    clock = Clock()
    clock.health.started()

    assert [clock.after(1149, is_loading=True), clock.after(2, is_loading=True)] == [(200, 200, 200), (200, 503, 503)]
    assert [clock.after(149), clock.after(2)] == [(200, 200, 200), (200, 503, 503)]
