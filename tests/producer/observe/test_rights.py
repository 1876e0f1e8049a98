"""A user with few rights sees what it may read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from rollstream import AsyncClient
from rollstream.producer.errors import RedisUnavailableError
from rollstream.producer.observe.fleet import Fleet
from rollstream.producer.observe.read_fleet import FleetReader
from rollstream.producer.redis_io.connection import Connection
from rollstream.schemas import Keys
from tests.support.dead_letters import bury, letter_of
from tests.support.fault_steps import tokens
from tests.support.faults import Queue

pytestmark = pytest.mark.keys_by_hand
USER = "watcher"


@pytest.fixture
def allow(server: Any) -> Iterator[Any]:
    def allow(*rules: str) -> None:
        server.execute_command("ACL", "SETUSER", USER, "reset", "on", ">pw", *rules)

    yield allow
    server.execute_command("ACL", "DELUSER", USER)


async def reading_of(redis_url: str, keys: Keys) -> Fleet:
    connection = Connection(access=redis_url.replace("redis://", f"redis://{USER}:pw@"), reconnect_s=5)
    try:
        return await FleetReader(connection=connection, keys=keys).read()
    finally:
        await connection.aclose()


async def test_reading_and_scripts_are_all_that_is_needed(
    redis_url: str, allow: Any, trainer: AsyncClient, keys: Keys, policy: str
) -> None:
    await trainer.submit([[1]], None, tokens(1))
    allow(
        f"~rs:{{{policy}}}:*", f"~rs:{{{policy}:*}}:*", "+@read", "+@connection", "+info", "+time", "+evalsha", "+eval"
    )

    fleet = await reading_of(redis_url, keys)

    assert fleet.problems == ()
    assert fleet.redis_memory is not None
    assert fleet.queues[0].oldest_waiting_s is not None


async def test_without_info_the_memory_is_unknown(redis_url: str, allow: Any, trainer: AsyncClient, keys: Keys) -> None:
    await trainer.submit([[1]], None, tokens(1))
    allow("~*", "+@all", "-info")

    fleet = await reading_of(redis_url, keys)

    assert (fleet.redis_memory, fleet.redis_memory_limit) == (None, None)
    assert (fleet.queues[0].waiting, fleet.problems) == (1, ())


async def test_without_scripts_letters_are_counted_and_not_listed(
    redis_url: str, allow: Any, trainer: AsyncClient, keys: Keys, policy: str, queue: Queue
) -> None:
    await trainer.submit([[1]], None, tokens(1))
    bury(queue, letter_of(policy), b"")
    allow("~*", "+@all", "-@scripting")

    fleet = await reading_of(redis_url, keys)

    assert (fleet.num_letters, fleet.letters) == (1, ())
    assert fleet.queues[0].oldest_waiting_s is not None
    assert all("evalsha" in problem.lower() for problem in fleet.problems)
    assert fleet.problems


async def test_without_any_right_it_is_an_error(redis_url: str, allow: Any, keys: Keys) -> None:
    allow("~*", "+ping", "+@connection")

    with pytest.raises(RedisUnavailableError, match="time"):
        await reading_of(redis_url, keys)
