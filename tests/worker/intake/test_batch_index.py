"""The index of batches: written by submits, rid of what expired by any worker."""

from __future__ import annotations

from typing import Any, cast

import pytest
from redis.asyncio import Redis

from rollstream import Client, GenerationConfig
from rollstream.schemas import Envelope, Keys
from rollstream.worker.delivery.admission import Admission
from rollstream.worker.intake import batch_index
from rollstream.worker.intake.batch_index import BatchIndex
from tests.support.faults import Queue
from tests.support.partials.parts import counted, deliver, job_of, nbytes, part_of, parts_at

CONFIG = GenerationConfig(max_new_tokens=2)


def indexed(queue: Queue, partition: int = 0) -> list[str]:
    members = cast("list[bytes]", queue.redis.zrange(queue.keys.batches(partition), 0, -1))
    return [member.decode() for member in members]


def test_a_batch_is_in_the_index_once_by_its_first_submit(client: Client, queue: Queue) -> None:
    client.submit([[1]], None, CONFIG, batch_id="late")
    client.submit([[2]], None, CONFIG, batch_id="early")
    queue.redis.zadd(queue.keys.batches(0), {"early": 5.0})
    client.submit([[2]], None, CONFIG, batch_id="early")

    assert indexed(queue) == ["early", "late"]
    assert queue.redis.zscore(queue.keys.batches(0), "early") == 5.0


def test_an_index_that_is_something_else_stops_no_submit(client: Client, queue: Queue) -> None:
    queue.redis.set(queue.keys.batches(0), "no index")
    client.submit([[1]], None, CONFIG, batch_id="b")
    assert len(queue.entries()) == 1


async def test_a_batch_leaves_the_index_with_its_ledger(redis: Redis, client: Client, queue: Queue) -> None:
    for batch_id in ("stays", "goes"):
        client.submit([[1]], None, CONFIG, batch_id=batch_id)
    queue.redis.delete(queue.keys.ledger("goes"))

    assert await BatchIndex(redis=redis, keys=queue.keys, admission=Admission(limit=1)).tidy(0) == 1
    assert indexed(queue) == ["stays"]


async def test_each_look_goes_on_where_the_last_one_ended(
    redis: Redis, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_index, "_PAGE", 3)
    monkeypatch.setattr(batch_index, "_PAGES", 1)
    scores: Any = {f"b{number}": number for number in range(8)}
    queue.redis.zadd(queue.keys.batches(0), scores)
    for number in range(0, 8, 2):
        queue.redis.hset(queue.keys.ledger(f"b{number}"), "digest", "x")
    index = BatchIndex(redis=redis, keys=queue.keys, admission=Admission(limit=1))

    assert [await index.tidy(0) for _ in range(4)] == [1, 2, 1, 0]
    assert indexed(queue) == ["b0", "b2", "b4", "b6"]


async def test_what_is_no_batch_of_this_partition_is_left_alone(redis: Redis, policy: str, queue: Queue) -> None:
    keys = Keys(policy, partitions=2)
    other = next(name for name in "abcdef" if keys.partition(name) == 1)
    strangers: Any = {b"\xff": 1, "a b": 2, other: 3}
    queue.redis.zadd(keys.batches(0), strangers)

    assert await BatchIndex(redis=redis, keys=keys, admission=Admission(limit=1)).tidy(0) == 0
    assert queue.redis.zcard(keys.batches(0)) == 3


async def test_bytes_of_parts_that_are_gone_are_counted_no_more(redis: Redis, queue: Queue) -> None:
    keys, jobs = queue.keys, [job_of("stays"), job_of("goes")]
    for job in jobs:
        lease = await deliver(redis, keys, job)
        await parts_at(redis, keys).keep(lease, Envelope.of_job(job), [part_of(job, 0, 0, 3)])
    await redis.delete(keys.parts("goes"))
    await redis.hset(keys.part_bytes(0), mapping={"no batch": 7, "*": 123})
    index = BatchIndex(redis=redis, keys=keys, admission=Admission(limit=1))

    assert [await index.mend_parts(0) for _ in range(2)] == [1, 0]

    size = nbytes(part_of(jobs[0], 0, 0, 3))
    assert await counted(redis, keys, "stays", "goes") == [size, size, 0]
    assert await redis.hlen(keys.part_bytes(0)) == 2
    await redis.delete(keys.parts("stays"))
    assert await index.mend_parts(0) == 1
    assert await redis.exists(keys.part_bytes(0)) == 0


async def test_a_hash_of_bytes_that_holds_only_nonsense_is_mended(redis: Redis, queue: Queue) -> None:
    await redis.hset(queue.keys.part_bytes(0), mapping={"*": "1e999", "\x00": "nan"})
    await redis.expire(queue.keys.part_bytes(0), 600)
    index = BatchIndex(redis=redis, keys=queue.keys, admission=Admission(limit=1))

    assert await index.mend_parts(0) == 0

    assert await redis.exists(queue.keys.part_bytes(0)) == 0


async def test_where_nothing_is_kept_a_look_costs_one_command(redis: Redis, queue: Queue) -> None:
    index = BatchIndex(redis=redis, keys=queue.keys, admission=Admission(limit=1))
    before: Any = await redis.info("commandstats")

    assert await index.mend_parts(0) == 0

    after: Any = await redis.info("commandstats")
    calls = {name: stats["calls"] - before.get(name, {"calls": 0})["calls"] for name, stats in after.items()}
    assert [name for name, count in calls.items() if count and name != "cmdstat_info"] == ["cmdstat_hscan"]
