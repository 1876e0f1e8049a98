"""TLS with certificates of one's own: what works, and that each thing that is wrong is one error that names it."""

from __future__ import annotations

import asyncio
import datetime
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from rollstream import AsyncClient, Client, RedisUnavailableError
from rollstream.producer.doctor.examine import examine
from rollstream.schemas import Keys
from rollstream.transport.redis.access import RedisAccess
from rollstream.transport.redis.client_settings import client_settings
from rollstream.worker.config import WorkerSettings
from rollstream.worker.errors import SettingsError
from rollstream.worker.redis_io.connections import connect
from rollstream.worker.startup.redis_checks import wait_for_redis
from tests.support.fault_steps import stub_flags, tokens, wait_until_logged
from tests.support.redis_access.certificates import DAY, Authority, Pair
from tests.support.redis_access.main_path import set_variables
from tests.support.redis_access.tls_redis import TlsRedis
from tests.support.worker_process import WorkerProcess

WITHIN_S = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """A Redis that asks for certificates, and certificates of many kinds."""

    authority: Authority
    stranger: Authority
    me: Pair
    redis: TlsRedis

    @property
    def access(self) -> RedisAccess:
        return self.redis.access(self.me)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    folder = tmp_path_factory.mktemp("tls")
    authority, stranger = Authority(folder), Authority(folder, "stranger")
    with TlsRedis(authority, authority.pair("server", hosts=("localhost", "127.0.0.1"))) as redis:
        yield Room(authority=authority, stranger=stranger, me=authority.pair("me"), redis=redis)


@pytest.fixture
def serving_with(room: Room) -> Iterator[Callable[[Pair], TlsRedis]]:
    """Start a Redis with another certificate of its own."""
    started: list[TlsRedis] = []

    def start(mine: Pair) -> TlsRedis:
        started.append(TlsRedis(room.authority, mine).__enter__())
        return started[-1]

    yield start
    for redis in started:
        redis.__exit__(None, None, None)


async def told_by_all(access: RedisAccess, policy: str) -> list[str]:
    """What client, worker and doctor say, each within seconds."""
    begun = time.monotonic()
    async with asyncio.timeout(3 * WITHIN_S):
        said = [await told_to_a_client(access, policy), await told_to_a_worker(access, policy)]
        (finding,) = await examine(access, Keys(policy))
    assert time.monotonic() - begun < 2 * WITHIN_S
    assert finding.level == "fail"
    return [*said, f"{finding.seen}: {finding.remedy}"]


async def told_to_a_client(access: RedisAccess, policy: str) -> str:
    with pytest.raises(RedisUnavailableError) as caught:
        async with AsyncClient(access, policy=policy) as client:
            await client.newest_version()
    return f"{caught.value.url}: {caught.value.problem}: {caught.value.advice}"


async def told_to_a_worker(access: RedisAccess, policy: str) -> str:
    settings = WorkerSettings(
        policy=policy, engine="stub", redis=access.url, redis_ca=_path(access.ca), redis_cert=_path(access.cert),
        redis_key=_path(access.key),
    )  # fmt: skip
    client = connect(settings.access)
    try:
        with pytest.raises(SettingsError) as caught:
            await wait_for_redis(client, settings)
    finally:
        await client.aclose()
    return str(caught.value)


def _path(file: object) -> Path | None:
    return None if file is None else Path(str(file))


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


FILES: dict[str, tuple[Callable[[Room], RedisAccess], str]] = {
    "no file": (lambda room: replace(room.access, ca="/nowhere.pem"), "redis_ca=/nowhere.pem: No such file"),
    "a key in the CA's place": (lambda room: replace(room.access, ca=room.me.key), "it holds no certificate"),
    "a key that does not fit": (
        lambda room: replace(room.access, key=room.authority.pair("other-key").key),
        "the key does not fit the certificate",
    ),
    "an encrypted key": (
        lambda room: room.redis.access(room.authority.pair("locked", password="hidden")),
        "the key is encrypted; write ssl_password=",
    ),
    "an encrypted key with another password": (
        lambda room: replace(
            room.redis.access(room.authority.pair("locked", password="hidden")), url="rediss://h?ssl_password=wrong"
        ),
        "the password of the key is wrong",
    ),
    "a key alone": (lambda room: replace(room.access, cert=None), "redis_key is a key without its certificate"),
    "a file of the URL": (
        lambda room: replace(room.access, ca=None, url="rediss://h?ssl_ca_certs=/nowhere.pem"),
        "ssl_ca_certs=/nowhere.pem: No such file",
    ),
    "two files for one thing": (
        lambda room: replace(room.access, url="rediss://h?ssl_ca_certs=/other.pem"),
        "redis_ca and ssl_ca_certs in the URL name different files",
    ),
    "certificates without TLS": (lambda room: replace(room.access, url="redis://h"), "write rediss://"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_cannot_be_used_are_refused_before_anything_connects(name: str, room: Room) -> None:
    make, said = FILES[name]
    access = make(room)

    for made in (lambda: connect(access), lambda: Client(access, policy="p")):
        with pytest.raises((SettingsError, RedisUnavailableError)) as caught:
            made()
        assert said in str(caught.value)


async def test_a_key_may_have_a_password_and_lie_beside_its_certificate(room: Room, policy: str) -> None:
    locked = room.authority.pair("both", password="hidden")
    both = locked.cert.with_name("both-in-one.pem")
    both.write_bytes(locked.cert.read_bytes() + locked.key.read_bytes())
    url = f"{room.redis.tls_url()}?ssl_password=hidden"

    async with AsyncClient(url, policy=policy, redis_ca=room.authority.ca, redis_cert=both) as client:
        version = await client.newest_version()

    assert version == 0


async def test_renewed_certificates_are_used_without_a_restart(room: Room, policy: str, tmp_path: Path) -> None:
    mine = Pair(cert=tmp_path / "tls.crt", key=tmp_path / "tls.key")
    put(room.me, mine)

    async with AsyncClient(room.redis.access(mine), policy=policy, reconnect_s=0) as client:
        before = await client.newest_version()
        put(room.stranger.pair("refused"), mine)
        await hang_up(room.redis)
        with pytest.raises(RedisUnavailableError, match=r"redis_cert|hung up|closed"):
            await client.newest_version()
        put(room.authority.pair("renewed"), mine)
        after = await client.newest_version()

    assert (before, after) == (0, 0)


def put(pair: Pair, place: Pair) -> None:
    for source, target in ((pair.cert, place.cert), (pair.key, place.key)):
        fresh = target.with_suffix(".new")
        shutil.copy(source, fresh)
        fresh.replace(target)


async def hang_up(redis: TlsRedis) -> None:
    plain = connect(redis.url)
    try:
        await plain.client_kill_filter(_type="normal", skipme=True)
    finally:
        await plain.aclose()


def test_a_worker_outlives_a_certificate_of_redis_that_ran_out(
    room: Room, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = room.authority.pair("good")
    with TlsRedis(room.authority, good, appendonly=True) as redis:
        access = redis.access(room.me)
        set_variables(access, monkeypatch)
        worker = WorkerProcess(redis.url, policy, "--redis", access.url, *stub_flags())
        try:
            worker.wait_until_serving()
            redis.kill()
            redis.mine = room.authority.pair("ran-out", begins=-3 * DAY, ends=-DAY)
            redis.start()
            wait_until_logged(worker, "certificate has expired", "its names and its last day")
            redis.kill()
            redis.mine = good
            redis.start()
            with Client(access, policy=policy, reconnect_s=20) as client:
                found = client.generate([[1]], None, tokens(2), timeout=30)
        finally:
            worker.end()

    assert found.errors == {}


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
