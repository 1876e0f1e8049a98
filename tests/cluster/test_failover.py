"""A cluster whose primaries die, step down and hand over slots while groups are asked for: each is answered once."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest
from redis import Redis
from redis.asyncio import Redis as AnyRedis

from rollstream.producer.demo.local_cluster import ClusterNode, LocalCluster
from rollstream.schemas import Keys
from rollstream.schemas.keys import GROUP
from rollstream.transport.redis import connected
from tests.support import stub_workers
from tests.support.cluster.cluster_load import Audit, Load, audit
from tests.support.cluster.cluster_steps import follower_of, primary_of, promoted, rejoin, reshard, separate
from tests.support.worker_process import WorkerProcess, wait_for

PARTITIONS = 4
HURT = 0
"""The partition whose node something happens to."""


@pytest.fixture(scope="module")
def replicated() -> Iterator[LocalCluster]:
    with LocalCluster(replicated=True) as cluster:
        yield cluster


@pytest.fixture
def keys(policy: str) -> Keys:
    return Keys(policy, partitions=PARTITIONS)


@contextlib.contextmanager
def serving(cluster: LocalCluster, keys: Keys, count: int = 2, *flags: str) -> Iterator[list[WorkerProcess]]:
    """Stub workers, by whom a group takes a twentieth of a second."""
    cluster.wait_until_whole()
    partitions = ("--partitions", str(keys.partitions))
    with stub_workers.serving(cluster.url, keys.policy, *partitions, *flags, count=count, group_s=0.05) as workers:
        yield workers


def tell(numbers: str) -> None:
    """What docs/redis.md says of a failover; shown by `pytest -s`."""
    print(f"\n{numbers}")  # noqa: T201 - a measurement, for the next edition of the page


def audited(cluster: LocalCluster, keys: Keys, load: Load) -> Audit:
    return asyncio.run(audit(cluster.url, keys, load.outcome))


def fail_over(cluster: LocalCluster, key: str) -> None:
    """Kill the key's primary; return once its replica has its place and it is the replica."""
    lost = primary_of(key, cluster)
    heir = follower_of(lost, cluster)
    lost.kill()
    promoted(heir, key, [node for node in cluster.everyone if node not in (lost, heir)])
    lost.start()


def step_down(cluster: LocalCluster, key: str) -> None:
    """What an operator does before an upgrade: CLUSTER FAILOVER, at the replica."""
    heir = follower_of(primary_of(key, cluster), cluster)
    wait_for(lambda: _is_in_step(heir), 30, lambda: str(heir.ask("INFO", "replication")))
    heir.ask("CLUSTER", "FAILOVER")
    promoted(heir, key, [node for node in cluster.everyone if node is not heir])


def hand_over(cluster: LocalCluster, key: str) -> None:
    """Move the slot of a jobs stream, with pending entries, to another primary."""
    old = primary_of(key, cluster)
    to = next(node for node in cluster.everyone if node.role == "master" and node is not old)
    wait_for(lambda: pending(old, key) > 0, 30, lambda: "nothing is pending")
    assert key.encode() in reshard(key, to, cluster)


def _is_in_step(replica: ClusterNode) -> bool:
    told = replica.ask("INFO", "replication")
    return bool(told["role"] == "slave" and told["master_link_status"] == "up")


def pending(node: ClusterNode, key: str) -> int:
    return int(node.ask("XPENDING", key, GROUP)["pending"])


def test_groups_are_answered_once_while_a_primary_dies_and_steps_down_and_its_slot_moves(
    replicated: LocalCluster, keys: Keys
) -> None:
    key = keys.jobs(HURT)
    with serving(replicated, keys), Load(replicated.url, keys, of=HURT) as load:
        for harm in (hand_over, fail_over, step_down):
            load.wait_for_more(2)
            harm(replicated, key)
        load.wait_for_more(2)

    found = audited(replicated, keys, load)

    assert (load.outcome.lost, found.gone, found.problems) == ({}, 0, [])
    assert found.groups == 8 * len(load.outcome.read) > 0


def test_a_stream_that_moves_to_another_node_keeps_who_holds_its_jobs_and_how_often_they_were_delivered(
    replicated: LocalCluster, keys: Keys
) -> None:
    replicated.wait_until_whole()
    key = keys.jobs(HURT)
    old = primary_of(key, replicated)
    to = next(node for node in replicated.everyone if node.role == "master" and node is not old)
    old.ask("XGROUP", "CREATE", key, GROUP, "0", "MKSTREAM")
    for number in range(3):
        old.ask("XADD", key, "*", "n", number)
    old.ask("XREADGROUP", "GROUP", GROUP, "one", "COUNT", 2, "STREAMS", key, ">")
    old.ask("XAUTOCLAIM", key, GROUP, "two", 0, "-", "COUNT", 1)
    before = held(old, key)

    reshard(key, to, replicated)
    after, unread = held(to, key), to.ask("XREADGROUP", "GROUP", GROUP, "two", "STREAMS", key, ">")
    to.ask("DEL", key)
    reshard(key, old, replicated)

    assert sorted(deliveries for _, _, deliveries in before) == [1, 2]
    assert after == before
    assert "2" in str(unread)


def held(node: ClusterNode, key: str) -> list[tuple[bytes, bytes, int]]:
    """Entry id, consumer and number of deliveries of each pending entry."""
    with Redis(port=node.port) as client:
        rows = cast("list[dict[str, Any]]", client.xpending_range(key, GROUP, "-", "+", 10))
    return [(row["message_id"], row["consumer"], row["times_delivered"]) for row in rows]


@pytest.mark.parametrize("number", range(3))
async def test_replicas_are_waited_for_at_the_node_that_was_written_to(replicated: LocalCluster, number: int) -> None:
    replicated.wait_until_whole()
    key = next(f"key-{each}" for each in range(100) if replicated.node_of(f"key-{each}") is replicated.nodes[number])
    primary = primary_of(key, replicated)
    replica = follower_of(primary, replicated)
    async with connected(replicated.url, protocol=2) as redis:
        together = await set_and_wait(redis, key)
        separate(replica, primary)
        apart = await set_and_wait(redis, key)
        await redis.delete(key)
    rejoin(replica)

    assert (together, apart) == (1, 0)


async def set_and_wait(redis: AnyRedis, key: str) -> int:
    """How many replicas have it, after at most a tenth of a second."""
    pipe: Any = redis.pipeline(transaction=False)
    pipe.set(key, 1)
    pipe.execute_command("WAIT", 1, 100)
    return int((await pipe.execute())[1])


@pytest.mark.large
def test_groups_are_answered_once_through_many_failovers_and_reshards(replicated: LocalCluster, keys: Keys) -> None:
    with serving(replicated, keys, 3), Load(replicated.url, keys) as load:
        for turn in range(6):
            key = keys.jobs(turn % PARTITIONS)
            for harm in (hand_over, step_down, fail_over):
                load.wait_for_more(20)
                harm(replicated, key)
            replicated.wait_until_whole()
        load.wait_for_more(20)

    found = audited(replicated, keys, load)

    tell(f"{len(load.outcome.read)} batches, {found.groups} groups, {found.redelivered} delivered again")
    assert (load.outcome.lost, found.gone, found.problems) == ({}, 0, [])


@pytest.mark.large
@pytest.mark.parametrize(("separate_s", "wait"), [(0.0, 0), (0.5, 0), (2.0, 0), (2.0, 1)])
def test_all_that_a_failover_loses_is_named_to_its_submitter_and_with_redis_wait_it_loses_nothing(
    replicated: LocalCluster, keys: Keys, separate_s: float, wait: int
) -> None:
    with (
        serving(replicated, keys, 2, "--redis-wait", str(wait)),
        Load(replicated.url, keys, of=HURT, wait=wait) as load,
    ):
        load.wait_for_more(20)
        fail_over_late(replicated, keys.jobs(HURT), separate_s)
        load.wait_for_more(20, timeout_s=60)

    found, lost = audited(replicated, keys, load), load.outcome.lost

    tell(
        f"replica {separate_s:g} s behind, redis_wait {wait}: of {len(load.outcome.acknowledged)} batches"
        f" {len(lost)} lost, {found.gone} gone after they were read, {found.redelivered} groups delivered again"
    )
    assert found.problems == []
    assert set(lost.values()) <= {"UnknownBatchError", "LostJobsError"}
    assert bool(lost) == bool(separate_s and not wait)
    assert not (wait and found.gone)


def fail_over_late(cluster: LocalCluster, key: str, separate_s: float) -> None:
    """As `fail_over`, after the replica has got nothing for so long."""
    lost = primary_of(key, cluster)
    heir = follower_of(lost, cluster)
    if separate_s:
        separate(heir, lost)
    time.sleep(separate_s)  # what is acknowledged meanwhile is what may be lost
    fail_over(cluster, key)
    rejoin(heir)
