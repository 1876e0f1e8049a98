"""Each thing that is wrong with TLS is one error that names it, from client, worker and doctor."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import replace

import pytest

from rollstream import AsyncClient
from rollstream.transport.redis.access import RedisAccess
from rollstream.transport.redis.client_settings import client_settings
from tests.support.fault_steps import stub_flags
from tests.support.redis_access.certificates import DAY, Pair
from tests.support.redis_access.main_path import set_variables
from tests.support.redis_access.tls_redis import TlsRedis
from tests.support.worker_process import WorkerProcess
from tests.transport.tls.room import Room, told_by_all, told_to_a_client

WRONG: dict[str, tuple[Callable[[Room], RedisAccess], tuple[str, ...]]] = {
    "no CA": (lambda room: replace(room.access, ca=None), ("not to be trusted", "redis_ca")),
    "another CA": (lambda room: replace(room.access, ca=room.stranger.ca), ("not to be trusted", "redis_ca")),
    "no certificate of ours": (lambda room: room.redis.access(None), ("wants a certificate", "redis_cert")),
    "a certificate of another CA": (
        lambda room: room.redis.access(room.stranger.pair("foreign")),
        ("refuses our certificate", "foreign.pem", "tls-ca-cert-file"),
    ),
    "an expired certificate of ours": (
        lambda room: room.redis.access(room.authority.pair("old", begins=-3 * DAY, ends=-DAY)),
        ("our certificate has expired", "old.pem"),
    ),
    "a certificate of ours that is not valid yet": (
        lambda room: room.redis.access(room.authority.pair("young", begins=DAY, ends=2 * DAY)),
        ("refuses our certificate", "young.pem", "valid now"),
    ),
    "TLS not asked for": (
        lambda room: RedisAccess(url=f"redis://127.0.0.1:{room.redis.tls_port}"),
        ("it speaks TLS", "rediss://"),
    ),
    "TLS on a plain port": (
        lambda room: replace(room.access, url=f"rediss://127.0.0.1:{room.redis.port}"),
        ("it speaks no TLS", "tls-port"),
    ),
}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain port says nothing to a handshake, so what is tested lasts as long as what is waited for."""
    hurried = {**client_settings(), "socket_connect_timeout": 0.5}
    for module in ("producer.redis_io.connection", "worker.redis_io.connections"):
        monkeypatch.setattr(f"rollstream.{module}.client_settings", lambda: hurried)
    monkeypatch.setattr("rollstream.transport.redis.tls_problems._LIMIT_S", 0.5)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", WRONG)
async def test_what_is_wrong_with_tls_is_named_by_client_worker_and_doctor(name: str, room: Room, policy: str) -> None:
    make, words = WRONG[name]

    said = await told_by_all(make(room), policy)

    for text in said:
        assert all(word in text for word in words), said
        assert f":{room.redis.port}" in text or f":{room.redis.tls_port}" in text


@pytest.mark.parametrize(
    ("begins", "ends", "hosts", "words"),
    [
        (-3 * DAY, -DAY, ("127.0.0.1",), ("certificate has expired", "renewed")),
        (DAY, 2 * DAY, ("127.0.0.1",), ("not yet valid", "clock")),
        (-DAY, DAY, ("redis.internal",), ("IP address mismatch", "subjectAltName")),
    ],
)
async def test_what_is_wrong_with_its_certificate_is_named(
    begins: datetime.timedelta,
    ends: datetime.timedelta,
    hosts: tuple[str, ...],
    words: tuple[str, ...],
    room: Room,
    serving_with: Callable[[Pair], TlsRedis],
    policy: str,
) -> None:
    redis = serving_with(room.authority.pair("bad", begins=begins, ends=ends, hosts=hosts))

    said = await told_by_all(redis.access(room.me), policy)

    assert all(word in text for word in words for text in said), said


async def test_the_name_of_the_host_is_checked_unless_the_url_says_otherwise(
    room: Room, serving_with: Callable[[Pair], TlsRedis], policy: str
) -> None:
    access = serving_with(room.authority.pair("other", hosts=("redis.internal",))).access(room.me, "localhost")

    said = await told_to_a_client(access, policy)
    async with AsyncClient(f"{access.url}?ssl_check_hostname=no", policy=policy, redis_ca=access.ca,
                           redis_cert=access.cert, redis_key=access.key) as client:  # fmt: skip
        version = await client.newest_version()

    assert "Hostname mismatch" in said
    assert version == 0


def test_a_worker_that_does_not_trust_redis_ends_with_exit_code_2(
    room: Room, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(replace(room.access, ca=room.stranger.ca), monkeypatch)
    worker = WorkerProcess(room.redis.url, policy, "--redis", room.access.url, *stub_flags())
    try:
        code = worker.process.wait(30)
    finally:
        worker.end()

    assert code == 2
    assert "its certificate is not to be trusted" in worker.log
