"""Nothing that a producer or an operator asks looks through the database: others may keep millions of keys in it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

import rollstream
from rollstream import Client, GenerationConfig
from rollstream.producer.batches.waiting_facts import read_facts
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.producer.observe.read_fleet import FleetReader
from rollstream.producer.operations.queue_state import read_queue_state
from rollstream.producer.operations.requests import live_workers
from rollstream.producer.redis_io.connection import Connection
from rollstream.schemas import Batch, Keys
from tests.support.examined import doctor
from tests.support.fault_steps import stub

ROOT = Path(rollstream.__file__).parents[1]
CONFIG = GenerationConfig(max_new_tokens=2)


@pytest.fixture
def own_redis() -> Iterator[Any]:
    """A server whose commands are counted."""
    with EmbeddedRedis(appendonly=True) as own, redis.Redis.from_url(own.url) as connected:
        connected.url = own.url
        yield connected


def test_status_doctor_and_waits_find_everything_without_a_scan(own_redis: Any, policy: str) -> None:
    keys = Keys(policy)

    async def ask(batch: Batch) -> tuple[list[str], list[str], list[str]]:
        connection = Connection(access=own_redis.url, reconnect_s=5)
        status = await read_queue_state(connection, keys)
        fleet = await FleetReader(connection=connection, keys=keys).read()
        facts = await read_facts(connection, keys, batch)
        nobody = await read_facts(connection, Keys("p-without-workers"), batch)
        found = await live_workers(connection, keys)
        await connection.aclose()
        assert [worker.consumer for worker in status.workers] == [one.name for one in facts.workers]
        assert [worker.consumer for worker in fleet.workers] == [worker.consumer for worker in status.workers]
        assert [one.batch_id for one in fleet.batches] == [batch.batch_id]
        return [worker.consumer for worker in status.workers], found, list(nobody.elsewhere)

    with stub(own_redis.url, policy), Client(own_redis.url, policy=policy) as client:
        handle = client.submit([[1], [2]], None, CONFIG, batch_id="done")
        handle.wait(20)
        client.wait_for_version(0, timeout=10)
        own_redis.config_resetstat()
        batch = Batch(batch_id="done", num_groups=2, num_jobs=1, prompt_width=1, config=CONFIG, submitted_at=0.0)
        shown, found, elsewhere = asyncio.run(ask(batch))
        done = doctor(own_redis.url, policy, "--json")
        client.wait_for_version(0, timeout=10)

    assert (len(shown), found, elsewhere) == (1, shown, [policy])
    assert done.exit_code == 0, done.output
    stats = own_redis.info("commandstats")
    assert "cmdstat_zrange" in stats
    assert not {"cmdstat_scan", "cmdstat_keys"} & stats.keys()


def test_no_module_of_producer_worker_and_transport_asks_for_one() -> None:
    scans = re.compile(r"(?<!h)scan_iter\(|\.(?:scan|keys)\((?=.)(?!\))|\"(?:SCAN|KEYS)\"|'(?:SCAN|KEYS)'")
    files = [
        path
        for room in ("producer", "worker", "transport")
        for path in ROOT.glob(f"{room}/**/*")
        if path.suffix in (".py", ".lua")
    ]
    assert [path for path in files if scans.search(path.read_text())] == []
    assert len(files) > 100
