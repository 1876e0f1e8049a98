"""Sentinels and servers that speak TLS alone and want certificates: batches, a failover, the doctor, refusals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from rollstream import AsyncClient, Client, GenerationConfig, RedisUnavailableError
from rollstream.transport.redis.access import RedisAccess
from tests.support.command_line import Command
from tests.support.redis_access.certificates import Authority
from tests.support.redis_access.main_path import set_variables
from tests.support.sentinel.tls import TlsWatched
from tests.support.stub_workers import serving

CONFIG = GenerationConfig(max_new_tokens=4)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def encrypted(authority: Authority) -> Iterator[TlsWatched]:
    with TlsWatched(authority, authority.pair("server")) as servers:
        yield servers


@pytest.fixture
def access(encrypted: TlsWatched, authority: Authority) -> RedisAccess:
    me = authority.pair("me")
    return RedisAccess(url=encrypted.url, ca=authority.ca, cert=me.cert, key=me.key)


def test_batches_go_in_tls_to_the_first_primary_and_to_the_next(
    encrypted: TlsWatched, access: RedisAccess, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(access, monkeypatch)
    with Client(access, policy=policy, reconnect_s=20) as client, serving(access.url, policy):
        before = client.generate([[1]], None, CONFIG, timeout=30)
        doctor = Command(access.url, policy)("doctor")
        old = encrypted.primary
        old.kill()
        after = client.generate([[2]], None, CONFIG, timeout=30)

    old.start()
    assert (before.errors, after.errors) == ({}, {})
    assert encrypted.primary is not old
    assert doctor.exit_code == 0, doctor.output


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ca": None}, "not to be trusted"),
        ({"cert": None, "key": None}, "wants a certificate of ours"),
    ],
    ids=["they are not trusted", "we have no certificate"],
)
async def test_who_does_not_trust_or_is_not_trusted_is_told_which(
    access: RedisAccess, policy: str, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(RedisUnavailableError) as caught:
        async with AsyncClient(replace(access, **changes), policy=policy) as client:
            await client.newest_version()

    assert words in f"{caught.value.problem}: {caught.value.advice}"
