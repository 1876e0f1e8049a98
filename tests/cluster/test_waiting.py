"""Waiting for replicas in a cluster: WAIT goes to the node that has the batch, on the connection that wrote."""

from __future__ import annotations

import pytest

from rollstream import AsyncClient, GenerationConfig, UnconfirmedSubmitError
from rollstream.producer.demo.local_cluster import LocalCluster
from rollstream.schemas import Keys

CONFIG = GenerationConfig(max_new_tokens=4)
PARTITIONS = 4


async def test_nodes_without_replicas_confirm_nothing_whichever_has_the_batch(
    cluster: LocalCluster, policy: str
) -> None:
    options = {"policy": policy, "partitions": PARTITIONS, "redis_wait": 1, "reconnect_s": 0.2}
    async with AsyncClient(cluster.url, **options) as client:  # type: ignore[arg-type] # one dict for all of them
        for batch_id in ("a", "b", "c"):
            with pytest.raises(UnconfirmedSubmitError, match=f"0 of 1 replicas.*batch_id='{batch_id}'"):
                await client.submit([[1]], config=CONFIG, batch_id=batch_id)

    keys = Keys(policy, partitions=PARTITIONS)
    for batch_id in ("a", "b", "c"):
        assert cluster.node_of(keys.ledger(batch_id)).ask("EXISTS", keys.ledger(batch_id)) == 1


@pytest.mark.large
async def test_a_replica_of_the_node_that_has_the_batch_confirms_it(policy: str) -> None:
    with LocalCluster(replicated=True) as cluster:
        cluster.wait_until_whole()
        async with AsyncClient(cluster.url, policy=policy, partitions=PARTITIONS, redis_wait=1) as client:
            handles = [await client.submit([[1]], config=CONFIG) for _ in range(8)]
            counts = [await handle.done() for handle in handles]

    assert counts == [0] * 8
