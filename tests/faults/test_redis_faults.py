"""Whatever Redis answers while it fails over, refuses writes or lacks replicas: the worker waits, and serves on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis

from rollstream import Client, GenerationConfig
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.schemas import Keys
from tests.support.worker_process import WorkerProcess, running_worker, wait_for

POLICY = "faults"
CONFIG = GenerationConfig(max_new_tokens=5, ignore_eos=True)


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedRedis]:
    """A server of its own, because its faults would disturb other tests."""
    with EmbeddedRedis() as server:
        yield server


@pytest.fixture(scope="module")
def worker(server: EmbeddedRedis) -> Iterator[WorkerProcess]:
    with running_worker(server.url, POLICY, "--engine", "stub") as worker:
        yield worker


def replica(client: redis.Redis) -> None:
    client.replicaof("127.0.0.1", "1")


def master(client: redis.Redis) -> None:
    client.replicaof("NO", "ONE")


def lacks_replicas(client: redis.Redis) -> None:
    client.config_set("min-replicas-to-write", "1")


def has_replicas(client: redis.Redis) -> None:
    client.config_set("min-replicas-to-write", "0")


def full(client: redis.Redis) -> None:
    client.config_set("maxmemory", "1")


def roomy(client: redis.Redis) -> None:
    client.config_set("maxmemory", "0")


@pytest.mark.parametrize(
    ("harm", "mend"),
    [(replica, master), (lacks_replicas, has_replicas), (full, roomy)],
    ids=["failover", "no replicas", "full"],
)
def test_a_fault_of_redis_is_waited_for(
    server: EmbeddedRedis,
    worker: WorkerProcess,
    harm: Callable[[redis.Redis], None],
    mend: Callable[[redis.Redis], None],
) -> None:
    with redis.Redis.from_url(server.url) as admin:
        missed = worker.log.count("heartbeat missed")
        harm(admin)
        wait_for(lambda: worker.log.count("heartbeat missed") > missed, 20, lambda: worker.log)
        mend(admin)

    with Client(server.url, policy=POLICY) as client:
        assert client.generate([[5], [6]], None, CONFIG, timeout=30).errors == {}
    assert worker.process.poll() is None


def test_a_heartbeat_that_cannot_be_written_is_no_reason_to_end(server: EmbeddedRedis, worker: WorkerProcess) -> None:
    with redis.Redis.from_url(server.url) as admin:
        pattern = Keys(POLICY).worker("*")
        wait_for(lambda: any(admin.scan_iter(pattern)), 20, lambda: worker.log)
        (key,) = list(admin.scan_iter(pattern))
        missed = worker.log.count("heartbeat missed")
        admin.set(key, "no hash")
        wait_for(lambda: worker.log.count("heartbeat missed") > missed, 20, lambda: worker.log)
        admin.delete(key)
        wait_for(lambda: admin.type(key) == b"hash", 20, lambda: worker.log)

    assert worker.process.poll() is None
