"""On a Redis Cluster: adapters, policy versions, cancelling, replay and dead letters, as on a single Redis."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

from rollstream import AsyncClient
from rollstream.producer.cli.app import app
from rollstream.producer.demo.local_cluster import LocalCluster
from rollstream.schemas import GroupError, GroupResult
from rollstream.schemas.wire.policies import Activate
from tests.support.fault_steps import stub_flags, tokens, wait_until_logged
from tests.support.weights.publishing import lora
from tests.support.worker_process import WorkerProcess

PARTITIONS = 4
POISON = 666

Command = Callable[..., Awaitable[str]]


@pytest.fixture
async def trainer(cluster: LocalCluster, policy: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(cluster.url, policy=policy, partitions=PARTITIONS) as client:
        yield client


@pytest.fixture
def command(cluster: LocalCluster, policy: str) -> Command:
    env = {"ROLLSTREAM_REDIS": cluster.url, "ROLLSTREAM_POLICY": policy, "ROLLSTREAM_PARTITIONS": str(PARTITIONS)}

    async def run(*args: str) -> str:
        found = await asyncio.to_thread(CliRunner(env=env).invoke, app, list(args))  # it has an event loop of its own
        assert found.exit_code == 0, (args, found.stdout, found.stderr, found.exception)
        return found.stdout

    return run


@contextmanager
def worker(cluster: LocalCluster, policy: str, *flags: str, group_s: float = 0.0) -> Iterator[WorkerProcess]:
    started = WorkerProcess(cluster.url, policy, *stub_flags(group_s), "--partitions", str(PARTITIONS), *flags)
    try:
        wait_until_logged(started, "max_num_seqs=", timeout_s=60)
        yield started
    finally:
        started.end()


async def sampled(trainer: AsyncClient, batch_ids: list[str], adapter: str | None = None) -> list[GroupResult]:
    """Answers of a batch a name, in order."""
    handles = [await trainer.submit([[5], [6]], None, tokens(), batch_id=name, adapter=adapter) for name in batch_ids]
    answers = [(await handle.wait(timeout=60))[group] for handle in handles for group in range(2)]
    assert all(isinstance(answer, GroupResult) for answer in answers), answers
    return [answer for answer in answers if isinstance(answer, GroupResult)]


async def test_adapters_and_versions_reach_workers_of_every_partition(
    cluster: LocalCluster, policy: str, trainer: AsyncClient
) -> None:
    batches = [f"b{number}" for number in range(6)]
    name = await trainer.publish_adapter("math", 1, lora(), lora_alpha=8)
    with worker(cluster, policy, "--lora"):
        assert {answer.adapter for answer in await sampled(trainer, batches, name)} == {name}

        await trainer.publish_policy(1, adapter=lora(), lora_alpha=8)
        await trainer.wait_for_version(1, timeout=60)
        answers = await sampled(trainer, [f"{batch}-after" for batch in batches])
        assert {version for answer in answers for spans in answer.version_spans for version, _ in spans} == {1}

        shared = Activate(when="when_prepared")
        await trainer.publish_policy(2, adapter=lora(), lora_alpha=8, activate=shared)
        await trainer.wait_for_version(2, timeout=60)


async def test_a_batch_is_cancelled_in_its_partition(cluster: LocalCluster, policy: str, trainer: AsyncClient) -> None:
    handles = [await trainer.submit([[5]] * 3, None, tokens(), batch_id=f"b{number}") for number in range(6)]
    with worker(cluster, policy, group_s=600) as busy:
        wait_until_logged(busy, "job started")
        for handle in handles:
            assert await handle.cancel() == 3
            answers = (await handle.wait(timeout=60)).values()
            assert {answer.code for answer in answers if isinstance(answer, GroupError)} == {"cancelled"}
        wait_until_logged(busy, "batch cancelled, engine requests aborted")


async def test_a_replay_repeats_every_token(
    cluster: LocalCluster, policy: str, trainer: AsyncClient, command: Command
) -> None:
    with worker(cluster, policy):
        for number in range(6):
            await sampled(trainer, [f"b{number}"])
            await command(
                "replay", "--batch", f"b{number}", "--batch-id", f"again-{number}", "--verify", "--timeout", "60"
            )


async def test_a_dead_letter_is_listed_requeued_and_answered(
    cluster: LocalCluster, policy: str, trainer: AsyncClient, command: Command
) -> None:
    handle = await trainer.submit([[POISON]], None, tokens(), batch_id="b")
    with worker(cluster, policy, "--stub-poison-token", str(POISON)) as dying:
        dying.process.wait(60)
    with worker(cluster, policy, "--max-deliveries", "1"):
        answer = (await handle.wait(timeout=60))[0]
        assert isinstance(answer, GroupError)
        (letter,) = json.loads(await command("dead", "ls", "--json"))
        assert (letter["batch"], letter["deliveries"]) == ("b", 2)

        again = await command("dead", "requeue", f"{letter['partition']}/{letter['entry']}")
        requeued = await trainer.attach(again.strip())
        assert isinstance((await requeued.wait(timeout=60))[0], GroupResult)
    assert json.loads(await command("dead", "ls", "--json")) == []
