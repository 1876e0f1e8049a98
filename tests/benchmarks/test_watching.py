"""The benchmarks of readings fill Redis with what they say, and measure whole readings of it."""

from __future__ import annotations

import asyncio

import redis

from benchmarks.queue import batch_page
from benchmarks.queue.observe import Amount, fill, readings_of
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.producer.observe.fleet import Presence
from rollstream.schemas import Keys


def test_a_full_queue_is_read_whole_and_by_as_many_commands_each_time() -> None:
    keys = Keys("observed", partitions=2)
    amount = Amount(entries=8000, workers=5, batches=20, under_way=3, letters=4, partitions=2)
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        fill(client, keys, amount)
        cost = asyncio.run(readings_of(client, server.url, keys, 2))

    fleet = cost.readings[-1]
    assert fleet.problems == ()
    assert sum(queue.entries for queue in fleet.queues) == 8000
    assert [worker.presence for worker in fleet.workers] == [Presence.LIVE] * 5
    assert (len(fleet.batches), sum(batch.is_under_way for batch in fleet.batches)) == (20, 3)
    assert (len(fleet.minutes), len(fleet.letters)) == (59, 4)
    assert len({one.commands for one in cost.readings}) == 1
    assert cost.details()["commands"] == fleet.commands


def test_every_page_is_read_until_it_is_whole() -> None:
    keys = Keys("pages")
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        batch_page.fill(client, keys, 120, 4)
        runs, details = asyncio.run(batch_page.measure(server.url, client, keys, 120))

    assert list(runs) == list(details) == ["first page", "last page", "last page again"]
    assert [one["asked"] for one in details.values()] == [1, 1, 1]
