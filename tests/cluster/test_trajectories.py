"""On a Redis Cluster: a session lies beside its policy, its turns in other slots; one goes on from another there."""

from __future__ import annotations

from rollstream import AsyncClient, GenerationConfig
from rollstream.producer.demo.local_cluster import LocalCluster
from rollstream.schemas import Keys
from rollstream.schemas.hashes.sessions import SessionField
from tests.support.stub_workers import serving

PARTITIONS = 4
CONFIG = GenerationConfig(max_new_tokens=2, seed=1)


async def test_turns_of_every_partition_are_one_trajectory_and_stay_together(
    cluster: LocalCluster, policy: str
) -> None:
    keys, ids = Keys(policy, partitions=PARTITIONS), list[int]()
    with serving(cluster.url, policy, "--partitions", str(PARTITIONS)):
        async with AsyncClient(cluster.url, policy=policy, partitions=PARTITIONS) as client:
            session = client.session("talk", retention_s=14 * 86_400)
            handles = []
            for number in range(6):
                handle = await session.submit([number], CONFIG, continue_of="last" if number else None)
                (answer,) = (await handle.wait(timeout=60)).values()
                ids += [number, *answer.completions[0].token_ids]
                handles.append(handle)
            first = keys.results(handles[0].batch_id)
            cluster.node_of(first).ask("EXPIRE", first, 100)
            key = keys.session("talk")
            cluster.node_of(key).ask("HSET", key, SessionField.RENEWED_AT, "1")
            await session.submit([9], CONFIG, request_id="renews")
            found = await session.trajectory((handles[-1].batch_id, 0, 0))
            await (await session.submit([9], CONFIG, request_id="renews")).wait(timeout=60)
    assert len({keys.partition(one.batch_id) for one in handles}) > 1
    assert found.input_ids.tolist() == ids
    assert int(cluster.node_of(first).ask("TTL", first)) > 14 * 86_400
