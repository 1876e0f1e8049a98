"""One read takes one job, from any partition, and what a worker holds is seen to the last entry."""

from __future__ import annotations

from redis.asyncio import Redis

from rollstream.schemas import Keys
from rollstream.schemas.keys import GROUP
from rollstream.worker.redis_io import streams


async def test_a_read_takes_one_job_however_many_partitions_have_one(redis: Redis, policy: str) -> None:
    keys = Keys(policy, partitions=4)
    jobs = [keys.jobs(partition) for partition in range(4)]
    for jobs_key in jobs:
        await streams.create_group(redis, jobs_key)
        await redis.xadd(jobs_key, {"payload": b""})

    taken = [await streams.read_new(redis, "w1", jobs, 10, 1) for _ in range(5)]

    assert [[entry.jobs_key for entry in entries] for entries in taken] == [[jobs_key] for jobs_key in jobs] + [[]]


async def test_a_pending_list_is_read_to_its_end(redis: Redis, policy: str) -> None:
    jobs = Keys(policy).jobs(0)
    await streams.create_group(redis, jobs)
    async with redis.pipeline() as pipe:
        for _ in range(2500):
            pipe.xadd(jobs, {"payload": b""})
        ids = [entry_id.decode() for entry_id in await pipe.execute()]
    await redis.xreadgroup(GROUP, "w1", {jobs: ">"}, count=2500)

    assert [entry_id for entry_id, *_ in await streams.pending_of(redis, "w1", jobs)] == ids
