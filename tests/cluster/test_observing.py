"""On a Redis Cluster a reading and the exporter show all partitions, as on a single Redis."""

from __future__ import annotations

from rollstream import AsyncClient
from rollstream.producer.demo.local_cluster import LocalCluster
from rollstream.producer.observe.read_batch import read_batch
from rollstream.producer.observe.read_fleet import FleetReader
from rollstream.producer.redis_io.connection import Connection
from rollstream.schemas import Keys
from tests.support.fault_steps import stub_flags, tokens, wait_until_logged
from tests.support.worker_process import WorkerProcess, until

PARTITIONS = 4


async def test_a_reading_shows_all_partitions_and_their_workers(cluster: LocalCluster, policy: str) -> None:
    keys = Keys(policy, partitions=PARTITIONS)
    connection = Connection(access=cluster.url, reconnect_s=5)
    reader = FleetReader(connection=connection, keys=keys)
    names = [f"batch-{number}" for number in range(8)]
    worker = WorkerProcess(cluster.url, policy, *stub_flags(), "--partitions", str(PARTITIONS))
    try:
        async with AsyncClient(cluster.url, policy=policy, partitions=PARTITIONS) as trainer:
            handles = [await trainer.submit([[1], [2]], None, tokens(3), batch_id=name) for name in names]
            wait_until_logged(worker, "max_num_seqs=", timeout_s=60)
            for handle in handles:
                await handle.wait(timeout=60)

        async def counted() -> bool:
            return sum(sums.groups for _, sums in (await reader.read()).minutes) == 16

        await until(counted)
        fleet = await reader.read()
        batch = await read_batch(connection, keys, "batch-3")
    finally:
        worker.end()
        await connection.aclose()

    assert {keys.partition(name) for name in names} == {0, 1, 2, 3}
    assert sum(queue.entries for queue in fleet.queues) == 8
    assert [queue.partition for queue in fleet.queues] == [0, 1, 2, 3]
    assert sorted(one.batch_id for one in fleet.batches if not one.is_under_way) == names
    assert (fleet.num_batches, len(fleet.workers), fleet.open_tokens, fleet.problems) == (8, 1, 0, ())
    assert fleet.redis_memory
    assert [group.state for group in batch.groups] == ["result", "result"]
