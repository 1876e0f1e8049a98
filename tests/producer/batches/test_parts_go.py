"""Parts go with their groups when a producer cancels or cuts them."""

from __future__ import annotations

from typing import Any

from redis.asyncio import Redis

from rollstream import AsyncClient
from rollstream.producer.batches.handle import BatchHandle
from rollstream.schemas import Envelope
from rollstream.schemas.hashes.part_fields import part_field, tokens_field
from tests.support.faults import Queue
from tests.support.partials.parts import CONFIG, counted, part_of, parts_at, take


async def kept_of_a_batch(redis: Redis, queue: Queue, client: AsyncClient) -> BatchHandle:
    """A batch of two groups, of both of which parts are kept."""
    handle = await client.submit([[1], [2]], None, CONFIG, batch_id="b")
    lease, job = await take(redis, queue.keys)
    given = [part_of(job, 0, 0, 3), part_of(job, 1, 2, 4)]
    assert (await parts_at(redis, queue.keys).keep(lease, Envelope.of_job(job), given)).written == 2
    return handle


async def test_parts_go_when_their_batch_is_cancelled(redis: Redis, queue: Queue, trainer: AsyncClient) -> None:
    handle = await kept_of_a_batch(redis, queue, trainer)

    assert await handle.cancel() == 2

    assert await redis.exists(queue.keys.parts("b"), queue.keys.part_bytes(0)) == 0


async def test_parts_of_groups_that_are_cut_go_and_others_stay(
    redis: Redis, queue: Queue, trainer: AsyncClient
) -> None:
    handle = await kept_of_a_batch(redis, queue, trainer)

    await handle.cancel(groups=[0])

    left: Any = await redis.hkeys(queue.keys.parts("b"))
    assert sorted(left) == [b"1", part_field(1, 2).encode(), tokens_field(1, 2).encode()]
    sizes = await counted(redis, queue.keys, "b")
    assert sizes[0] == sizes[1] == await redis.hstrlen(queue.keys.parts("b"), part_field(1, 2))
    await handle.cancel()
    assert await redis.exists(queue.keys.parts("b"), queue.keys.part_bytes(0)) == 0
