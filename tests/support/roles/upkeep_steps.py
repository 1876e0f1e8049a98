"""What is asked only once a minute, or only where a wait is long, a store is full or a key was lost."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from rollstream.producer.batches.ledger import read_description
from rollstream.producer.batches.lost_jobs import JobsLeft
from rollstream.producer.batches.waiting_facts import _other_policies, read_facts
from rollstream.producer.policies.adapter_expiry import expire_superseded
from rollstream.producer.policies.parked import read_parked
from rollstream.producer.redis_io.connection import Connection
from rollstream.schemas import Keys, PolicyVersion
from rollstream.schemas.keys import GROUP, horizons
from rollstream.transport.acl import Role, missing_rights
from rollstream.transport.redis.access import RedisAccess
from rollstream.transport.weights import store_of
from rollstream.worker.intake.batch_index import BatchIndex
from rollstream.worker.redis_io.connections import connect
from tests.support.faults import Queue
from tests.support.janitors import janitor_of
from tests.support.roles.image_steps import fill_up
from tests.support.roles.place import Place


async def seldom(place: Place) -> None:
    """What is asked only where a wait is long, a store is full or an adapter was a policy version."""
    keys = Keys(place.policy)
    for role in (Role.PRODUCER, Role.OPERATOR):
        connection = Connection(access=place.url_of(role), reconnect_s=5)
        batch: Any = await read_description(connection, keys, "later")
        await read_facts(connection, keys, batch)
        assert not await JobsLeft(connection=connection, keys=keys, batch=batch, was_queued=True).are_lost()
        await connection.call("parked", partial(read_parked, jobs=keys.jobs(0), now=time.time()))
        with Queue(place.redis_url, place.policy) as queue:
            await fill_up(connection, queue)
        nobody = Keys(place.policy, partitions=1)
        await connection.call("policies", _other_policies)
        assert nobody == keys
        if role is Role.PRODUCER:
            store = store_of("redis", keys, connection.call)
            await store.put("0" * 64, b"x")
            await store.delete(["0" * 64])
            named = [
                PolicyVersion(version=1, source="adapter", location="policy.x@1", sha256="0" * 64, published_at=0.0)
            ]
            await expire_superseded(connection, keys, named, active=2)
        await connection.aclose()
    for role in Role:
        redis = connect(RedisAccess(url=place.url_of(role)))
        assert await missing_rights(redis, role, keys) == {}
        await redis.ping()
        await redis.aclose()


async def clean(place: Place) -> None:
    """What a worker does once a minute."""
    keys, redis = Keys(place.policy), connect(place.url_of("worker"))
    try:
        admission: Any = None
        janitor = janitor_of(redis, place.policy, seconds=0, nbytes=0)
        await janitor.trim(keys.jobs(0))
        await janitor.remove_dead_consumers(keys.jobs(0), 0)
        with Queue(place.redis_url, place.policy) as queue:
            _set_clock_back(queue)
            await janitor.trim(keys.jobs(0))
            queue.redis.delete(horizons(keys.jobs(0)), keys.jobs(0))
        await BatchIndex(redis=redis, keys=keys, admission=admission).tidy(0)
    finally:
        await redis.aclose()


def _set_clock_back(queue: Queue) -> None:
    """The last entry is of a time to come, and so is a note of when one was delivered."""
    jobs, to_come = queue.keys.jobs(0), int(time.time() + 3600) * 1000
    queue.redis.xadd(jobs, {"batch": "b"}, id=f"{to_come}-0")
    queue.redis.xgroup_setid(jobs, GROUP, "$")
    queue.redis.hset(horizons(jobs), "1-1", to_come)
