"""What is wrong with Sentinels is said once and clearly, within seconds: by a client, by the doctor and by a worker."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from rollstream import AsyncClient, GenerationConfig, RedisUnavailableError
from rollstream.producer.demo.embedded_redis import free_port
from rollstream.producer.doctor.examine import examine
from rollstream.producer.doctor.finding import FAIL
from rollstream.schemas import Keys
from tests.support.fault_steps import wait_until_logged
from tests.support.sentinel.servers import SERVICE, Watched
from tests.support.worker_process import WorkerProcess

CONFIG = GenerationConfig(max_new_tokens=1)
SECONDS = 6.0


class Wrong(NamedTuple):
    """What is wrong, the words of the error and of its remedy, and whether a worker waits for it to pass."""

    url: str
    error: str
    remedy: str
    passes: bool


@pytest.fixture(scope="module")
def alone() -> Iterator[Watched]:
    """A primary without replicas, and one Sentinel, which wants a password."""
    with Watched(replicas=0, sentinels=1, lines=("requirepass right",)) as servers:
        yield servers


def away(servers: Watched) -> Wrong:
    url = f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{free_port()}/{SERVICE}"
    return Wrong(
        url, r"no Sentinel answers \(127.0.0.1:\d+: .*Connection refused", "check the Sentinels' addresses", True
    )


def frozen(servers: Watched) -> Wrong:
    servers.sentinels[0].freeze()
    return Wrong(
        f"{servers.url}?sentinel_password=right", "no Sentinel answers", "check the Sentinels' addresses", True
    )


def no_sentinel(servers: Watched) -> Wrong:
    url = servers.url_of(servers.servers[0])
    return Wrong(
        url, f"what answers at 127.0.0.1:{servers.servers[0].port} is no Sentinel", "name the Sentinels", False
    )


def other_service(servers: Watched) -> Wrong:
    url = f"{servers.url.removesuffix(SERVICE)}rollout?sentinel_password=right"
    return Wrong(url, f"watches no 'rollout', but '{SERVICE}'", "as `sentinel monitor`", False)


def no_login(servers: Watched) -> Wrong:
    return Wrong(servers.url, "(?i)authentication required", "sentinel_password=", False)


def wrong_login(servers: Watched) -> Wrong:
    return Wrong(
        f"{servers.url}?sentinel_password=wrong", "WRONGPASS|invalid username-password", "sentinel_password", False
    )


def demoted(servers: Watched) -> Wrong:
    servers.servers[0].ask("REPLICAOF", "127.0.0.1", 1)
    url = f"{servers.url}?sentinel_password=right"
    return Wrong(url, f"is a replica, and the Sentinels call it the primary of '{SERVICE}'", "SENTINEL FAILOVER", True)


def down(servers: Watched) -> Wrong:
    servers.servers[0].kill()
    url = f"{servers.url}?sentinel_password=right"
    return Wrong(url, "Connection refused|is down, say the Sentinels", "", True)


SLOW = [pytest.param(make, marks=pytest.mark.large, id=make.__name__) for make in (frozen,)]
QUICK = [away, no_sentinel, other_service, no_login, wrong_login, demoted, down]


@pytest.fixture
def wrong(alone: Watched, request: pytest.FixtureRequest) -> Iterator[Wrong]:
    """What is made wrong, and mended afterwards."""
    yield request.param(alone)
    alone.sentinels[0].thaw()
    alone.servers[0].start()
    alone.servers[0].ask("REPLICAOF", "NO", "ONE")


@pytest.mark.parametrize("wrong", [*QUICK, *SLOW], indirect=True)
async def test_client_and_doctor_name_what_is_wrong_within_seconds(wrong: Wrong, policy: str) -> None:
    began = time.monotonic()
    async with AsyncClient(wrong.url, policy=policy) as client:
        with pytest.raises(RedisUnavailableError, match=wrong.error) as raised:
            await client.submit([[1]], config=CONFIG)
    (finding,) = await examine(wrong.url, Keys(policy))

    assert time.monotonic() - began < 2 * SECONDS
    assert wrong.remedy in str(raised.value)
    assert (finding.level, wrong.remedy in finding.remedy) == (FAIL, True)
    assert "right" not in f"{raised.value} {finding}"


LATER = [
    pytest.param(make, marks=pytest.mark.large) for make in (away, no_sentinel, no_login, wrong_login, down, frozen)
]


@pytest.mark.parametrize("wrong", [other_service, *LATER], indirect=True)
def test_a_worker_names_it_and_ends_unless_it_may_pass(wrong: Wrong, policy: str) -> None:
    worker = WorkerProcess(wrong.url, policy, "--engine", "stub")
    try:
        if wrong.passes:
            wait_until_logged(worker, "redis cannot serve yet")
            assert worker.process.poll() is None
        else:
            assert worker.process.wait(20) == 2, worker.log
        assert wrong.remedy in worker.log
    finally:
        worker.end()
