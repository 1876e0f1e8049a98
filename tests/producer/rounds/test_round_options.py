"""Where workers find a trainer: on its way to Redis, however that is written."""

from __future__ import annotations

import pytest

from rollstream.producer.rounds.round_options import RoundOptions
from rollstream.transport.redis.access import RedisAccess


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("redis://u:p@127.0.0.1:7/0", "127.0.0.1"),
        ("rediss://127.0.0.1", "127.0.0.1"),
        ("redis://[::1]:7", "::1"),
        ("redis+cluster://127.0.0.1:7,h:8", "127.0.0.1"),
        ("unix:///run/redis.sock", "127.0.0.1"),
        ("redis://nowhere.invalid", "127.0.0.1"),
    ],
)
def test_the_trainer_is_where_its_way_to_redis_begins(url: str, host: str) -> None:
    assert RoundOptions(backend="gloo").host_towards(RedisAccess(url=url)) == host


def test_a_host_that_is_given_wins() -> None:
    assert RoundOptions(backend="gloo", host="trainer-0").host_towards(RedisAccess()) == "trainer-0"
