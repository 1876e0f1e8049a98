"""Lua scripts: found by one loader, sent by digest, fenced by one function."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

import rollstream
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.transport.redis.scripts import Script
from tests.support.lua import SCRIPTS

_TOP = Path(rollstream.__file__).parents[1]
_FOUND = [path for room in ("producer", "worker", "transport") for path in _TOP.glob(f"{room}/**/*.lua")]
NAMES = [path.name for path in _FOUND]
FILES = {path.name: path.read_text() for path in _FOUND}


@pytest.fixture
async def redis() -> AsyncIterator[Redis]:
    """A connection to a server of its own, so that its commands can be counted."""
    with EmbeddedRedis() as own:
        client = Redis.from_url(own.url)
        yield client
        await client.aclose()


def evals(stats: dict[str, Any]) -> tuple[int, ...]:
    """Calls of EVALSHA and of EVAL."""
    return tuple(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval"))


async def test_a_script_travels_whole_only_where_redis_does_not_know_it(redis: Redis) -> None:
    call = Script(name="test", text="return redis.call('INCR', KEYS[1]) + ARGV[1]")(["counter"], [10])

    assert [await call.to(redis) for _ in range(3)] == [11, 12, 13]
    assert evals(await redis.info("commandstats")) == (3, 1)
    await redis.script_flush()
    assert await call.to(redis) == 14
    assert evals(await redis.info("commandstats")) == (4, 2)


async def test_an_error_of_the_script_is_no_reason_to_run_it_again(redis: Redis) -> None:
    call = Script(name="test", text="redis.call('INCR', KEYS[1]) return redis.error_reply('BROKEN it is')")(
        ["counter"], []
    )

    with pytest.raises(ResponseError, match="BROKEN it is"):
        await call.to(redis)
    assert await redis.get("counter") == b"1"


def test_every_script_is_one_that_some_room_calls() -> None:
    assert SCRIPTS.keys() == FILES.keys() - {"fence.lua", "run_fence.lua", "parts.lua", "touch.lua"}


def test_no_two_rooms_have_a_script_of_the_same_name() -> None:
    assert sorted(NAMES) == sorted(FILES)


def test_the_fence_is_defined_once_and_in_each_script_that_calls_it() -> None:
    defining = [name for name, text in FILES.items() if "function fenced(" in text]
    calling = {name for name, text in FILES.items() if re.search(r"= fenced\(", text)}

    assert defining == ["fence.lua"]
    assert calling == {
        "bury.lua", "give_back.lua", "keep_parts.lua", "park.lua", "publish.lua", "renew.lua", "routing.lua",
        "settle.lua", "share.lua",
    }  # fmt: skip
    assert {name for name, script in SCRIPTS.items() if "function fenced(" in script.text} == calling


def test_what_counts_parts_is_defined_once_and_in_each_script_that_calls_it() -> None:
    shared = r"(?<!function )(count|drop|drop_all)_parts\("
    calling = {name for name, text in FILES.items() if re.search(shared, text)} - {"parts.lua"}

    assert calling == {"cancel.lua", "cut.lua", "keep_parts.lua", "mend_parts.lua", "publish.lua"}
    assert {name for name, script in SCRIPTS.items() if "function count_parts(" in script.text} == calling
