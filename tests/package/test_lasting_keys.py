"""The fixture that looks for keys without a TTL sees each kind of them, and is content with what may last."""

from __future__ import annotations

from typing import Any

import pytest

from rollstream.schemas import Keys
from tests.support.lasting_keys import without_ttl


@pytest.fixture
def unwatched(policy: str) -> str:
    """A policy at which the fixture for all tests does not look."""
    return f"unwatched-{policy}"


def test_a_key_that_must_expire_is_found(server: Any, unwatched: str) -> None:
    keys = Keys(unwatched)
    server.hset(keys.worker("w"), "state", "serving")
    server.set(keys.adapter("math@1"), b"manifest")
    server.hset(f"{keys.jobs(0)}:horizons", "1-0", "1")
    server.hset(f"{keys.jobs(0)}-of-a-new-kind", "a", "b")

    assert len(without_ttl(server, unwatched)) == 4

    for key in without_ttl(server, unwatched):
        server.expire(key, 60)
    assert without_ttl(server, unwatched) == []


def test_streams_and_the_control_hash_may_last(server: Any, unwatched: str) -> None:
    keys = Keys(unwatched, partitions=2)
    for stream in (keys.jobs(0), keys.jobs(1), keys.dead(0), keys.versions()):
        server.xadd(stream, {"payload": b""})
    server.hset(keys.control(), "paused", "by an operator")

    assert without_ttl(server, unwatched) == []


def test_a_batch_may_last_until_its_last_answer(server: Any, unwatched: str) -> None:
    keys = Keys(unwatched)
    ledger, results = keys.ledger("b"), keys.results("b")
    server.hset(ledger, mapping={"groups": 2, "done": 1})
    server.xadd(results, {"kind": "group"})
    assert without_ttl(server, unwatched) == []

    server.hset(ledger, "done", 2)
    assert without_ttl(server, unwatched) == [ledger, results]


def test_results_without_a_ledger_are_found(server: Any, unwatched: str) -> None:
    results = Keys(unwatched).results("b")
    server.xadd(results, {"kind": "group"})

    assert without_ttl(server, unwatched) == [results]
