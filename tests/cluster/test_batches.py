"""A Redis Cluster: batches over several partitions on three nodes, whatever dies, and each group answered once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from typer.testing import CliRunner, Result

from rollstream import AsyncClient, BatchHandle
from rollstream.producer.cli.app import app
from rollstream.producer.demo.local_cluster import LocalCluster
from rollstream.schemas import GroupResult, Keys, Sealed, decode
from rollstream.schemas.keys import GROUP
from rollstream.schemas.parked import ParkedFor
from rollstream.transport.redis import connected
from rollstream.worker.adapters.folder import AdapterFolder
from rollstream.worker.adapters.supply import AdapterSupply
from rollstream.worker.checkpoints.supply import CheckpointSupply
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.intake.parking import Parking
from rollstream.worker.measure.measures import Measures
from rollstream.worker.redis_io.connections import connect
from rollstream.worker.redis_io.streams import create_group
from rollstream.worker.versions.announced import Announced
from rollstream.worker.versions.make_follower import make_follower
from rollstream.worker.versions.proofs import Proofs
from rollstream.worker.versions.served import Served
from tests.support.fault_steps import kill, stub_flags, tokens, wait_until_logged
from tests.support.worker_process import WorkerProcess, until

PARTITIONS = 4
GROUPS = 6


@pytest.fixture
def keys(policy: str) -> Keys:
    return Keys(policy, partitions=PARTITIONS)


@pytest.fixture
async def redis(cluster: LocalCluster) -> AsyncIterator[Redis]:
    client = connected(cluster.url, protocol=2)
    yield client
    await client.aclose()


@pytest.fixture
async def trainer(cluster: LocalCluster, keys: Keys) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(cluster.url, policy=keys.policy, partitions=keys.partitions) as client:
        yield client


@pytest.fixture
def at_once() -> int:
    """Groups that a worker runs at a time; a quarter more are admitted."""
    return 4


@pytest.fixture
def workers(cluster: LocalCluster, keys: Keys, at_once: int) -> Iterator[list[WorkerProcess]]:
    """Two that serve; groups take a quarter of a second."""
    flags = [*stub_flags(group_s=0.25, at_once=at_once), "--partitions", str(keys.partitions)]
    started = [WorkerProcess(cluster.url, keys.policy, *flags) for _ in range(2)]
    try:
        for worker in started:
            wait_until_logged(worker, "max_num_seqs=", timeout_s=30)
        yield started
    finally:
        for worker in started:
            worker.end()


def one_a_partition(keys: Keys) -> list[str]:
    """A batch id for each partition, in order."""
    named = {keys.partition(f"batch-{number}"): f"batch-{number}" for number in range(64)}
    return [named[partition] for partition in range(keys.partitions)]


async def submit(trainer: AsyncClient, *batch_ids: str) -> list[BatchHandle]:
    prompts = [[5 + row] for row in range(GROUPS)]
    return [
        await trainer.submit(prompts, None, tokens(), batch_id=batch_id, prompts_per_job=1) for batch_id in batch_ids
    ]


async def done(redis: Redis, keys: Keys, batch_id: str) -> int:
    return int(await redis.hget(keys.ledger(batch_id), "done") or 0)


async def audit(redis: Redis, keys: Keys, batch_id: str) -> None:
    """One result a group, then the seal, and nothing pending in the batch's partition."""
    rows: Any = await redis.xrange(keys.results(batch_id))
    *answers, last = [decode(fields[b"payload"], GroupResult, Sealed) for _, fields in rows]
    assert isinstance(last, Sealed)
    assert sorted(answer.group for answer in answers if isinstance(answer, GroupResult)) == list(range(GROUPS))
    pending: Any = await redis.xpending(keys.jobs(keys.partition(batch_id)), GROUP)
    assert pending["pending"] == 0


async def test_batches_over_four_partitions_are_answered_by_two_workers(
    cluster: LocalCluster, keys: Keys, redis: Redis, trainer: AsyncClient, workers: list[WorkerProcess]
) -> None:
    assert len({cluster.node_of(keys.jobs(partition)).port for partition in range(PARTITIONS)}) > 1
    batch_ids = one_a_partition(keys)

    for batch in await submit(trainer, *batch_ids):
        await batch.wait(timeout=60)

    for batch_id in batch_ids:
        await audit(redis, keys, batch_id)
    assert all(worker.log.count("group answered") > GROUPS / 2 for worker in workers), "one did all"
    assert not any("reading again" in worker.log for worker in workers)
    assert [worker.terminate() for worker in workers] == [0, 0]


async def test_a_killed_workers_jobs_are_taken_over_in_every_partition(
    keys: Keys, redis: Redis, trainer: AsyncClient, workers: list[WorkerProcess]
) -> None:
    batch_ids = one_a_partition(keys)
    batches = await submit(trainer, *batch_ids)
    await until(lambda: done(redis, keys, batch_ids[0]))
    kill(workers[0])

    for batch in batches:
        await batch.wait(timeout=60)

    for batch_id in batch_ids:
        await audit(redis, keys, batch_id)


# More than all groups of a node: answers that wait for it are admitted work, and who has no room reads nothing else.
@pytest.mark.parametrize("at_once", [GROUPS * PARTITIONS])
async def test_a_node_that_is_away_keeps_no_other_partition_from_its_answers(
    cluster: LocalCluster, keys: Keys, redis: Redis, trainer: AsyncClient, workers: list[WorkerProcess]
) -> None:
    lost = cluster.node_of(keys.jobs(0))
    batch_ids = one_a_partition(keys)
    here = [name for name in batch_ids if cluster.node_of(keys.ledger(name)) is not lost]
    there = [name for name in batch_ids if name not in here]
    assert here
    batches = await submit(trainer, *there)
    await until(lambda: done(redis, keys, there[0]))

    lost.kill()
    try:
        others = await submit(trainer, *here)
        await until(lambda: done(redis, keys, here[0]))
        kill(workers[0])
        for batch in others:
            await batch.wait(timeout=60)
    finally:
        lost.start()
        cluster.wait_until_whole()
    for batch in batches:
        await batch.wait(timeout=60)

    for batch_id in batch_ids:
        await audit(redis, keys, batch_id)
    assert workers[1].process.poll() is None


@pytest.mark.usefixtures("long_reads")
async def test_a_node_that_says_nothing_keeps_no_worker_from_looking_for_parked_jobs_elsewhere(
    cluster: LocalCluster, keys: Keys
) -> None:
    silent = cluster.node_of(keys.jobs(0))
    here = next(keys.jobs(p) for p in range(PARTITIONS) if cluster.node_of(keys.jobs(p)) is not silent)
    commands = connect(cluster.url)
    engine = StubEngine(WorkerSettings(policy=keys.policy, engine="stub"))
    follower = make_follower(
        redis=commands,
        keys=keys,
        engine=engine,
        adapters=AdapterSupply(engine=engine, folder=AdapterFolder(root=None, max_rank=16, model=None), store=None),
        checkpoints=CheckpointSupply(folder=None),
        proofs=Proofs(),
        swap="keep",
        changed=print,
        measures=Measures(),
    )
    follower.serving = Served(announced=Announced(version=5))
    for jobs_key in (keys.jobs(0), here):
        await create_group(commands, jobs_key)
    entry_id: Any = await commands.xadd(here, {"n": "1"})
    await commands.xreadgroup(GROUP, ParkedFor(5).consumer, {here: ">"})
    parking = Parking(redis=commands, jobs_keys=[keys.jobs(0), here], consumer="one", follower=follower)

    silent.freeze()
    try:
        (taken,) = await asyncio.wait_for(parking.next(), 20)
    finally:
        silent.thaw()
        parking.close()
        cluster.wait_until_whole()
        await commands.aclose()

    assert taken.entry_id == entry_id.decode()


async def test_a_node_that_came_back_empty_is_read_again(
    cluster: LocalCluster, keys: Keys, redis: Redis, trainer: AsyncClient, workers: list[WorkerProcess]
) -> None:
    cluster.node_of(keys.jobs(0)).ask("FLUSHALL")
    batch_ids = one_a_partition(keys)

    for batch in await submit(trainer, *batch_ids):
        await batch.wait(timeout=60)

    assert all(worker.process.poll() is None for worker in workers)


def test_an_operator_sees_and_drives_a_cluster(
    cluster: LocalCluster, keys: Keys, workers: list[WorkerProcess], tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt_token_ids": [1, 2]}\n{"prompt_token_ids": [3]}\n')
    env = {"ROLLSTREAM_REDIS": cluster.url, "ROLLSTREAM_POLICY": keys.policy, "ROLLSTREAM_PARTITIONS": str(PARTITIONS)}

    def command(*args: str) -> Result:
        found = CliRunner(env=env).invoke(app, list(args))
        assert found.exit_code == 0, (args, found.stdout, found.stderr, found.exception)
        return found

    batch_id = command("submit", str(prompts), "--max-new-tokens", "4").stdout.strip()
    answers = [
        json.loads(line) for line in command("results", batch_id, "--follow", "--timeout", "30").stdout.splitlines()
    ]
    status = json.loads(command("status", "--json").stdout)
    findings = json.loads(command("doctor", "--json").stdout)

    assert len(answers) == 2
    assert (len(status["queues"]), len(status["workers"])) == (PARTITIONS, 2)
    assert sum(finding["check"] == "memory" for finding in findings) == 3, "one a node"
    command("pause")
    command("resume")
    command("drain", "--all")
    assert [worker.process.wait(30) for worker in workers] == [0, 0]
