"""The main path over every way to a Redis: TLS with certificates of both sides, IPv6, a unix socket."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.transport.redis.access import RedisAccess
from tests.support.redis_access.certificates import Authority
from tests.support.redis_access.main_path import MainPath, set_variables
from tests.support.redis_access.tls_redis import TlsRedis


class EverywhereRedis(EmbeddedRedis):
    """A Redis without TLS that listens at every address and at a socket; its user `worker` has a password."""

    @property
    def socket(self) -> Path:
        return Path(self._folder.name, "redis.sock")

    def _command(self) -> list[str | Path]:
        user = ["--user", "worker", "on", ">hidden", "~*", "&*", "+@all"]
        words = ["--bind", "* -::*", "--protected-mode", "no", *user]
        return [*super()._command(), "--unixsocket", self.socket, *words]


Way = contextlib.AbstractContextManager[tuple[RedisAccess, str]]


@contextlib.contextmanager
def by_tls(folder: Path) -> Iterator[tuple[RedisAccess, str]]:
    authority = Authority(folder)
    with TlsRedis(authority, authority.pair("server")) as server:
        yield server.access(authority.pair("me"), "localhost"), server.url


@contextlib.contextmanager
def by_ipv6(folder: Path) -> Iterator[tuple[RedisAccess, str]]:
    with EverywhereRedis() as server:
        url = f"redis://worker@[::1]:{server.port}/1"
        yield RedisAccess(url=url, password_file=password(folder)), server.url.replace("/0", "/1")


@contextlib.contextmanager
def by_socket(folder: Path) -> Iterator[tuple[RedisAccess, str]]:
    with EverywhereRedis() as server:
        yield RedisAccess(url=f"unix://worker@{server.socket}", password_file=password(folder)), server.url


def password(folder: Path) -> Path:
    file = folder / "password"
    file.write_text("hidden\n")
    file.chmod(0o600)
    return file


@pytest.mark.parametrize(
    "way",
    [by_tls, pytest.param(by_ipv6, marks=pytest.mark.large), pytest.param(by_socket, marks=pytest.mark.large)],
)
def test_the_main_path_goes_every_way(
    way: Callable[[Path], Way], policy: str, models: Path, adapter_dir: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with way(tmp_path) as (access, looks):
        set_variables(access, monkeypatch)
        MainPath(access=access, looks=looks, policy=policy, steps=models, adapters=adapter_dir, folder=tmp_path).run()

        with redis.Redis.from_url(looks) as server:
            assert server.acl_log() == []
