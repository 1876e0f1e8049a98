"""What a reader remembers makes readings cheap, and does not grow with what it has seen."""

from __future__ import annotations

import time
from typing import Any

import pytest

from rollstream.producer.observe.fleet import Presence
from rollstream.producer.observe.parts import batches as reading_batches
from rollstream.producer.observe.read_fleet import FleetReader
from rollstream.schemas import Keys
from rollstream.schemas.hashes.history import HistoryField
from rollstream.schemas.hashes.ledger import LedgerField
from tests.support.reports import report_of

pytestmark = pytest.mark.keys_by_hand
GROUPS = 4


def add_batch(server: Any, keys: Keys, name: str, *, submitted_at: float, done: int = GROUPS) -> None:
    server.hset(keys.ledger(name), mapping={LedgerField.GROUPS: GROUPS, LedgerField.DONE: done})
    server.zadd(keys.batches(0), {name: submitted_at})


def asked(server: Any, command: str) -> int:
    return int(server.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])


async def test_batches_that_ended_and_minutes_that_are_over_are_read_once(
    reader: FleetReader, server: Any, keys: Keys
) -> None:
    now = time.time()
    for number in range(50):
        add_batch(server, keys, f"b{number}", submitted_at=now - number, done=3 if number == 0 else GROUPS)
    for minute in range(int(now // 60) - 30, int(now // 60) - 2):
        server.hset(keys.history(minute), HistoryField.GROUPS, 5)
    first = await reader.read()
    server.config_resetstat()

    second = await reader.read()

    assert len(first.minutes) == 28
    assert second.minutes == first.minutes
    assert [batch.batch_id for batch in second.batches] == [f"b{number}" for number in range(50)]
    assert asked(server, "hscan") <= 3  # the clock may have gone on to the next minute
    assert asked(server, "hmget") == 4  # control, rate, totals, the one batch under way
    assert second.commands < first.commands - 50


async def test_a_batch_that_ended_and_expired_is_forgotten_in_time(
    reader: FleetReader, server: Any, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_batches, "_REMEMBERED_S", 0.0)
    add_batch(server, keys, "b", submitted_at=time.time())
    assert len((await reader.read()).batches) == 1
    server.delete(keys.ledger("b"))

    assert (await reader.read()).batches == ()


async def test_batches_of_a_clock_that_is_ahead_keep_their_order(reader: FleetReader, server: Any, keys: Keys) -> None:
    for number in range(20):
        add_batch(server, keys, f"b{number:02}", submitted_at=time.time() + 1000 + number // 2)

    readings = [await reader.read() for _ in range(2)]

    orders = [[batch.batch_id for batch in fleet.batches] for fleet in readings]
    assert orders == [[f"b{number:02}" for number in reversed(range(20))]] * 2


async def test_old_batches_under_way_are_found_in_time(reader: FleetReader, server: Any, keys: Keys) -> None:
    now = time.time()
    for number in range(350):
        add_batch(server, keys, f"b{number}", submitted_at=now - number, done=1 if number in {120, 340} else GROUPS)
    under_way: list[set[str]] = []

    for _ in range(5):
        fleet = await reader.read()
        under_way.append({batch.batch_id for batch in fleet.batches if batch.is_under_way})
        assert fleet.num_batches == 350
        assert len(fleet.batches) <= 102

    assert under_way[0] == set()
    assert under_way[-1] == {"b120", "b340"}
    server.hset(keys.ledger("b340"), LedgerField.DONE, GROUPS)
    await reader.read()
    assert "b340" not in {batch.batch_id for batch in (await reader.read()).batches}


async def test_memories_are_bounded(
    reader: FleetReader, server: Any, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading_batches, "_MOST_ENDED", 40)
    monkeypatch.setattr(reading_batches, "MOST_UNDER_WAY", 10)
    for number in range(90):
        add_batch(server, keys, f"b{number}", submitted_at=number, done=1 if number % 3 == 0 else GROUPS)
        report_of(server, keys, f"w{number}", {"state": "serving"})
    await reader.read()
    for number in range(90):
        server.zrem(keys.workers(), f"w{number}")

    fleet = await reader.read()

    assert fleet.workers == ()
    assert sum(batch.is_under_way for batch in fleet.batches) <= 30
    assert len(reader._workers._last) == 0
    assert len(reader._batches._ended) == 40
    assert len(reader._batches._under_way) == len(reader._batches._progress) == 10


async def test_at_most_a_thousand_workers_are_looked_at(reader: FleetReader, server: Any, keys: Keys) -> None:
    now = time.time()
    server.zadd(keys.workers(), {f"w{number:04}": now - number / 1000 for number in range(1100)})

    fleet = await reader.read()

    assert len(fleet.workers) == 1000
    assert {worker.presence for worker in fleet.workers} == {Presence.GONE}
    assert fleet.workers[-1].consumer == "w0999"
