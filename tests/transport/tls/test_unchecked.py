"""That certificates are not checked is an explicit choice, which all say, and none beside a CA."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from rollstream import AsyncClient
from rollstream.producer.doctor.examine import examine
from rollstream.producer.doctor.finding import WARN
from rollstream.schemas import Keys
from rollstream.transport.redis.access import RedisAccess
from rollstream.transport.redis.urls import RedisUrlError
from rollstream.worker.redis_io.connections import connect
from tests.transport.tls.room import Room

UNCHECKED = "ssl_cert_reqs=none"


@pytest.mark.parametrize(
    ("url", "ca", "said"),
    [
        (f"rediss://h?{UNCHECKED}", "/ca.pem", "redis_ca"),
        (f"rediss://h?{UNCHECKED}&ssl_ca_certs=/ca.pem", None, "ssl_ca_certs"),
        (f"rediss+sentinel://h/m?{UNCHECKED}&ssl_ca_path=/ca", None, "ssl_ca_path"),
        (f"rediss://h?{UNCHECKED}&ssl_ca_data=x", None, "ssl_ca_data"),
    ],
)
def test_a_ca_beside_it_is_a_contradiction(url: str, ca: str | None, said: str) -> None:
    with pytest.raises(RedisUrlError, match=f"{UNCHECKED} believes anybody, and {said} says whom to believe"):
        RedisAccess(url=url, ca=ca).place()


async def test_alone_it_works_with_a_warning_of_client_and_worker_and_doctor(
    room: Room, policy: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    access = replace(room.access, ca=None, url=f"{room.redis.tls_url()}?{UNCHECKED}")
    monkeypatch.setattr("rollstream.transport.redis.tls._told", set())
    with caplog.at_level(logging.WARNING):
        async with AsyncClient(access, policy=policy) as client:
            assert await client.newest_version() == 0
            connect(access)  # says it once a process
        by_client = list(caplog.messages)
        caplog.clear()
        monkeypatch.setattr("rollstream.transport.redis.tls._told", set())  # as in another process
        connect(access)

    found = [each for each in await examine(access, Keys(policy)) if each.check == "certificate"]

    for said in (by_client, caplog.messages):
        assert len([each for each in said if f"{UNCHECKED}, so its certificate is not checked" in each]) == 1
    assert [(each.level, UNCHECKED in each.seen) for each in found] == [(WARN, True)]


async def test_where_certificates_are_checked_nobody_warns(
    room: Room, policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = await examine(room.access, Keys(policy))

    assert [each for each in found if each.check == "certificate"] == []
    assert UNCHECKED not in caplog.text
