"""A policy version that is an adapter in the weight store: patched, verified, proven and served."""

from __future__ import annotations

import json
from pathlib import Path

from redis.asyncio import Redis

from rollstream import AsyncClient, Probe
from rollstream.schemas import Keys, encode
from rollstream.transport.weights import WeightStore, read_chain
from rollstream.worker.adapters import stored
from rollstream.worker.requests import Adapter
from tests.support.adapter_steps import on_disk
from tests.support.faults import Queue
from tests.support.weights.following import served
from tests.support.weights.probes import stub_probe
from tests.support.worker_process import until_true
from tests.worker.versions.stored_adapters.parts import Elsewhere, Tensors, Worker, publish, same, stepped, worker


async def test_an_anchor_and_deltas_give_the_trainers_adapter(
    serving: Worker, publisher: AsyncClient, weights: WeightStore, trained: Tensors
) -> None:
    await publish(publisher, 1, trained)
    await until_true(served(serving.follower, 1))
    assert same(serving.tensors, trained)
    assert json.loads((serving.adapter.path / "adapter_config.json").read_text())["lora_alpha"] == 16

    for version in (2, 3):
        trained = stepped(trained, version)
        announced = await publish(publisher, version, trained)
        await until_true(served(serving.follower, version))

        assert same(serving.tensors, trained)
        manifests = await read_chain(weights, announced.location)
        assert len(manifests) == version, "the version is no delta"
        assert manifests[-1].num_bytes < manifests[0].num_bytes / 20
    assert [adapter.name for adapter in serving.engine.loaded][-1] == f"policy.{announced.sha256[:16]}@3"


async def test_another_scaling_alone_is_another_version(
    serving: Worker, publisher: AsyncClient, trained: Tensors
) -> None:
    first = await publish(publisher, 1, trained)
    second = await publisher.publish_policy(2, adapter=trained, lora_alpha=32)
    await until_true(served(serving.follower, 2))

    assert first.sha256 != second.sha256
    assert json.loads((serving.adapter.path / "adapter_config.json").read_text())["lora_alpha"] == 32


async def test_going_back_to_an_adapter_that_is_kept_asks_nothing_of_the_store(
    serving: Worker, publisher: AsyncClient, queue: Queue, weights: WeightStore, trained: Tensors
) -> None:
    first = await publish(publisher, 1, trained)
    await until_true(served(serving.follower, 1))
    for version in (2, 3, 4):
        await publish(publisher, version, stepped(trained, version))
        await until_true(served(serving.follower, version))
    assert not [*serving.weights.glob(f"*/*/{first.location}")], "what it would be copied from is still there"
    await weights.delete([one.name for one in await weights.items()])
    again = first.model_copy(update={"version": 5})
    queue.redis.xadd(queue.keys.versions(), {"payload": encode(again)}, id="5-0")

    await until_true(served(serving.follower, 5))

    assert same(serving.tensors, trained)


async def test_a_running_job_keeps_its_adapter_while_others_come_and_go(
    redis: Redis, policy: str, weights: WeightStore, tiny_model: Path, tmp_path: Path, publisher: AsyncClient,
    trained: Tensors,
) -> None:  # fmt: skip
    async with worker(redis, Keys(policy), weights, tiny_model, tmp_path) as one:
        one.adapters._store._cache_bytes = 1  # type: ignore[union-attr] # room for what is used alone
        await publish(publisher, 1, trained)
        await until_true(served(one.follower, 1))
        old = one.adapter
        with one.adapters.in_use(old.name):
            for version in (2, 3, 4):  # each fetch evicts what nobody uses
                trained = stepped(trained, version)
                await publish(publisher, version, trained)
                await until_true(served(one.follower, version))
            assert [name[-2:] for name in on_disk(one.cache)].count("@2") == 0
            assert old.name in on_disk(one.cache)
            assert old in one.engine.loaded
        await publish(publisher, 5, stepped(trained, 5))
        await until_true(served(one.follower, 5))
        assert old not in one.engine.loaded


async def test_a_probe_is_asked_of_it_before_it_serves(redis: Redis, serving: Worker, elsewhere: Elsewhere) -> None:
    def probe(at: int, off: float = 0.0) -> Probe:
        one = elsewhere.announced[at]
        name = stored.stored_name(one.location, one.sha256)
        return stub_probe(0, adapter=Adapter(name=name, int_id=1, path=Path()), off=off)

    elsewhere.announce(0, probe=probe(0))
    await until_true(served(serving.follower, 1))
    elsewhere.announce(1, probe=probe(1, off=1.0))
    await until_true(lambda: "version 2 does not reproduce its probe" in serving.follower.error)
    assert serving.follower.serving.version == 1
