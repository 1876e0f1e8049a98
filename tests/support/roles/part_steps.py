"""What is done with parts of completions that take long: kept, followed, and deleted by all who may."""

from __future__ import annotations

import asyncio

from rollstream import Client
from rollstream.schemas.hashes.part_fields import ALL_PARTS
from rollstream.transport.acl import Role
from rollstream.worker.delivery.admission import Admission
from rollstream.worker.intake.batch_index import BatchIndex
from rollstream.worker.redis_io.connections import connect
from tests.support.fault_steps import tokens
from tests.support.faults import Queue
from tests.support.roles.place import Place
from tests.support.roles.sampling_steps import stream
from tests.support.worker_process import WorkerProcess, wait_for

EVERY_S = 0.05
SLOWLY = ("--stub-tokens-per-s", "20")
LONG = tokens(400)
"""At that speed it does not end by itself."""


def keep_parts(place: Place, client: Client, queue: Queue) -> None:
    """A gateway follows a completion until its answer; a trainer and an operator cancel others, group by group."""
    with place.worker(*SLOWLY) as worker:
        asyncio.run(stream(place))
        ours = client.submit([[1], [2]], None, LONG, batch_id="grows", keep_partials=EVERY_S)
        wait_for_parts(queue, worker, "grows", samples=2)
        assert ours.cancel(groups=[0]) == 1
        assert ours.cancel() == 1
        client.submit([[1], [2]], None, LONG, batch_id="grows-too", keep_partials=EVERY_S)
        wait_for_parts(queue, worker, "grows-too", samples=2)
        place.ok("cancel", "grows-too", "--groups", "0")
        place.ok("cancel", "grows-too")
    assert not queue.redis.exists(queue.keys.part_bytes(0))


def wait_for_parts(queue: Queue, worker: WorkerProcess, batch_id: str, samples: int) -> None:
    """Until that many completions of a batch have parts."""
    parts = queue.keys.parts(batch_id)
    wait_for(lambda: queue.redis.hlen(parts) >= 3 * samples, 20, lambda: worker.log)


async def count_parts(place: Place, queue: Queue) -> None:
    """What a worker does once a minute: parts of one batch are gone, and the sum of all bytes is wrong."""
    key, here = queue.keys.part_bytes(0), queue.keys.parts("here")
    queue.redis.hset(here, "0", 1)
    queue.redis.hset(key, mapping={ALL_PARTS: 7, "here": 1, "gone": 2})
    redis, admission = connect(place.url_of(Role.WORKER)), Admission(limit=1)
    try:
        assert await BatchIndex(redis=redis, keys=queue.keys, admission=admission).mend_parts(0) == 1
    finally:
        await redis.aclose()
    assert queue.redis.hgetall(key) == {ALL_PARTS.encode(): b"1", b"here": b"1"}
    queue.redis.delete(key, here)
