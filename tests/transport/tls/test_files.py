"""The files of certificates and keys: what may be in them, and what is refused before anything connects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from rollstream import AsyncClient, Client, RedisUnavailableError
from rollstream.transport.redis.access import RedisAccess
from rollstream.worker.errors import SettingsError
from rollstream.worker.redis_io.connections import connect
from tests.transport.tls.room import Room

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
