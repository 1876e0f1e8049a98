"""One Redis for all, and others with certificates of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.support.redis_access.certificates import Authority, Pair
from tests.support.redis_access.tls_redis import TlsRedis
from tests.transport.tls.room import Room


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
