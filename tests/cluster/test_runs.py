"""On a Redis Cluster: a run lies beside its policy, its batches in other slots; a crash between the two converges."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rollstream import AsyncClient, BatchConsumedError, GenerationConfig, RedisUnavailableError, RunTakenError
from rollstream.producer.demo.local_cluster import LocalCluster
from rollstream.schemas import Keys
from rollstream.schemas.times import RESULT_TTL_S, RUN_RETENTION_S
from tests.support.command_line import Command
from tests.support.fault_steps import stub_flags, wait_until_logged
from tests.support.worker_process import WorkerProcess

PARTITIONS = 4
CONFIG = GenerationConfig(max_new_tokens=2, seed=1)


class DiedError(Exception):
    """Raised where a trainer dies."""


@pytest.fixture
async def trainer(cluster: LocalCluster, policy: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(cluster.url, policy=policy, partitions=PARTITIONS) as client:
        yield client


def ttl(cluster: LocalCluster, keys: Keys, batch_id: str) -> int:
    key = keys.results(batch_id)
    return int(cluster.node_of(key).ask("TTL", key))


async def test_a_killed_trainer_finds_batches_of_every_partition_and_reads_each_once(
    cluster: LocalCluster, policy: str, trainer: AsyncClient
) -> None:
    keys = Keys(policy, partitions=PARTITIONS)
    before = trainer.run("exp")
    await before.open()
    handles = [await before.submit([[number]], None, CONFIG) for number in range(1, 9)]
    assert len({keys.partition(one.batch_id) for one in handles}) > 1

    worker = WorkerProcess(cluster.url, policy, *stub_flags(), "--partitions", str(PARTITIONS))
    try:
        wait_until_logged(worker, "max_num_seqs=", timeout_s=60)
        async with trainer.run("exp") as run:
            assert [one.handle for one in run.outstanding] == handles
            for step, one in enumerate(run.outstanding):
                rollouts = await one.handle.result(timeout=60)
                assert RESULT_TTL_S < ttl(cluster, keys, one.batch_id) <= RUN_RETENTION_S
                await run.consumed(rollouts, cursor=step)
                assert ttl(cluster, keys, one.batch_id) <= RESULT_TTL_S
            assert (run.counts.consumed, run.cursor) == (8, 7)
            with pytest.raises(BatchConsumedError):
                await run.consumed(handles[0])
    finally:
        worker.end()
    with pytest.raises(RunTakenError):
        await before.save_cursor(0)


@pytest.mark.parametrize("gap", ["intent", "jobs", "consumed"])
async def test_a_crash_between_the_slots_converges(
    cluster: LocalCluster, policy: str, trainer: AsyncClient, monkeypatch: pytest.MonkeyPatch, gap: str
) -> None:
    async def die(*_args: Any, **_named: Any) -> None:
        raise DiedError

    keys = Keys(policy, partitions=PARTITIONS)
    run = trainer.run("exp")
    await run.open()
    first = await run.submit([[1]], None, CONFIG)
    await first.cancel()
    with monkeypatch.context() as dying, pytest.raises(DiedError):  # noqa: PT012 - each gap is another call
        if gap == "intent":
            dying.setattr("rollstream.producer.batches.submit_and_wait.enqueue", die)
        elif gap == "jobs":
            dying.setattr("rollstream.producer.batches.submit_prompts.BatchHandle", _dying)
        else:
            dying.setattr(run._open, "release", die)
        await (run.consumed(first, cursor=1) if gap == "consumed" else run.submit([[2]], None, CONFIG))

    async with trainer.run("exp") as heir:
        if gap == "consumed":
            assert (heir.cursor, heir.counts.consumed, heir.outstanding) == (1, 1, ())
            assert ttl(cluster, keys, first.batch_id) <= RESULT_TTL_S
            return
        assert heir.counts.not_queued == (1 if gap == "intent" else 0)
        again = await heir.submit([[2]], None, CONFIG)
        assert [one.handle.batch_id for one in heir.outstanding] == [first.batch_id, again.batch_id]
        assert (heir.counts.submitted, heir.counts.not_queued) == (2, 0)


def _dying(**_named: Any) -> None:
    raise DiedError


async def test_versions_are_fenced_there_too(trainer: AsyncClient, models: Path) -> None:
    run = trainer.run("exp")
    await run.open()
    await run.publish_policy(1, checkpoint=models / "step-1", activate="by_hand")
    await run.activate(1)
    async with trainer.run("exp"):
        with pytest.raises(RunTakenError):
            await run.publish_policy(2, checkpoint=models / "step-2")
        with pytest.raises(RunTakenError):
            await run.activate(1)


async def test_a_run_is_shown_and_forgotten(cluster: LocalCluster, policy: str, trainer: AsyncClient) -> None:
    async with trainer.run("exp") as run:
        for number in range(4):
            await run.submit([[number]], None, CONFIG)

    command = Command(cluster.url, policy)
    command.env["ROLLSTREAM_PARTITIONS"] = str(PARTITIONS)
    shown = await asyncio.to_thread(command, "runs", "--run", "exp")
    assert "4 outstanding" in shown.stdout, shown.output
    gone = await asyncio.to_thread(command, "runs", "--forget", "exp", "--yes")
    assert gone.stdout == "run exp forgotten, with 4 outstanding batches\n"


async def test_a_node_without_replicas_confirms_no_write_of_a_run(cluster: LocalCluster, policy: str) -> None:
    async with AsyncClient(cluster.url, policy=policy, partitions=PARTITIONS, redis_wait=1, reconnect_s=0.2) as client:
        with pytest.raises(RedisUnavailableError, match="0 of 1 replicas"):
            await client.run("exp").open()
