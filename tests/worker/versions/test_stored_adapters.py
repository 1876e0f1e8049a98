"""A policy version that is an adapter in the weight store: patched, verified, proven and served, or the old one is."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from redis.asyncio import Redis
from safetensors.torch import load_file

from rollstream import AsyncClient, Probe
from rollstream.schemas import Keys, PolicyVersion, encode
from rollstream.transport.weights import WeightStore, read_chain, store_of
from rollstream.worker.adapters import stored
from rollstream.worker.adapters.folder import AdapterFolder
from rollstream.worker.adapters.store import AdapterStore
from rollstream.worker.adapters.supply import AdapterSupply
from rollstream.worker.cache_folder import CacheFolder
from rollstream.worker.checkpoints.store_versions import StoreVersions
from rollstream.worker.checkpoints.supply import CheckpointSupply
from rollstream.worker.checkpoints.weights_cache import WeightsCache
from rollstream.worker.measure.measures import Measures
from rollstream.worker.requests import Adapter
from rollstream.worker.versions.follower import VersionFollower
from rollstream.worker.versions.make_follower import make_follower
from rollstream.worker.versions.proofs import Proofs
from tests.support.adapter_steps import RecordingEngine, on_disk
from tests.support.faults import Queue
from tests.support.weights.following import following, served
from tests.support.weights.probes import stub_probe
from tests.support.weights.weight_versions import tensors_of, write
from tests.support.worker_process import until_true

Tensors = dict[str, torch.Tensor]


@dataclass
class Worker:
    """One that serves adapters from the store."""

    follower: VersionFollower
    engine: RecordingEngine
    adapters: AdapterSupply
    cache: CacheFolder
    weights: Path
    """Its weights' cache."""

    @property
    def adapter(self) -> Adapter:
        assert self.follower.serving.adapter is not None
        return self.follower.serving.adapter

    @property
    def tensors(self) -> Tensors:
        """Those of the adapter that it serves."""
        return load_file(self.adapter.path / "adapter_model.safetensors")


@pytest.fixture
def weights(tmp_path: Path, policy: str) -> WeightStore:
    (tmp_path / "store").mkdir()
    return store_of(tmp_path / "store", Keys(policy))


@pytest.fixture
async def publisher(redis_url: str, policy: str, weights: WeightStore, tmp_path: Path) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(redis_url, policy=policy, weights=tmp_path / "store") as client:
        yield client


@asynccontextmanager
async def worker(
    redis: Redis, keys: Keys, weights: WeightStore, model: Path, tmp_path: Path, max_bytes: int = 2**30
) -> AsyncIterator[Worker]:
    kept = WeightsCache(root=tmp_path / "weights-cache", model=model)
    store = StoreVersions(store=weights, cache=kept, model=model, max_adapter_bytes=max_bytes)
    checkpoints = CheckpointSupply(folder=None, cache=kept, store=store, timeout_s=30)
    engine, cache = RecordingEngine(), CacheFolder(tmp_path / "adapter-cache")
    cache.open()
    checkpoints.open()
    adapters = AdapterSupply(
        engine=engine,
        folder=AdapterFolder(root=None, max_rank=16, model=model),
        store=AdapterStore(redis=redis, keys=keys, cache=cache, max_bytes=max_bytes, cache_bytes=2**30),
    )
    followed = make_follower(
        redis=redis, keys=keys, engine=engine, adapters=adapters, checkpoints=checkpoints, proofs=Proofs(), swap="keep",
        changed=lambda: None, measures=Measures(),
    )  # fmt: skip
    async with following(followed):
        yield Worker(followed, engine, adapters, cache, tmp_path / "weights-cache")
    await adapters.close()
    await checkpoints.close()
    cache.close()


@pytest.fixture
async def serving(
    redis: Redis, policy: str, weights: WeightStore, tiny_model: Path, tmp_path: Path
) -> AsyncIterator[Worker]:
    async with worker(redis, Keys(policy), weights, tiny_model, tmp_path) as one:
        yield one


@pytest.fixture
def trained(adapter_dir: Path) -> Tensors:
    return load_file(adapter_dir / "math@1" / "adapter_model.safetensors")


def stepped(tensors: Tensors, step: int) -> Tensors:
    """After a step that changes one element of each tensor."""
    changed = {name: tensor.clone() for name, tensor in tensors.items()}
    for tensor in changed.values():
        tensor.view(-1)[step] += 0.5
    return changed


def same(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


async def publish(publisher: AsyncClient, version: int, tensors: Tensors, **options: Any) -> PolicyVersion:
    return await publisher.publish_policy(version, adapter=tensors, lora_alpha=16, **options)


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


@dataclass
class Elsewhere:
    """Versions that a trainer wrote to another store, to be harmed before a worker hears of them."""

    queue: Queue
    store: WeightStore
    announced: list[PolicyVersion]
    tensors: list[Tensors]

    def announce(self, at: int, **changes: Any) -> None:
        """As the last act of a publish."""
        one = self.announced[at].model_copy(update=changes)
        self.queue.redis.xadd(self.queue.keys.versions(), {"payload": encode(one)}, id=f"{one.version}-0")

    async def chunks(self, at: int) -> list[str]:
        """Those of one version alone."""
        return [chunk.sha256 for chunk in (await read_chain(self.store, self.announced[at].location))[-1].chunks]


@pytest.fixture
async def elsewhere(
    redis_url: str, policy: str, queue: Queue, weights: WeightStore, trained: Tensors, tmp_path: Path
) -> Elsewhere:
    """An anchor, a delta on it, and another anchor, in the worker's store and not announced."""
    (tmp_path / "other").mkdir()
    tensors = [trained, stepped(trained, 2), stepped(trained, 3)]
    async with AsyncClient(redis_url, policy=f"{policy}-other", weights=tmp_path / "other") as client:
        bases: list[Any] = [None, "auto", None]
        announced = [
            await client.publish_policy(version, adapter=one, lora_alpha=16, base=base)
            for version, one, base in zip((1, 2, 3), tensors, bases, strict=True)
        ]
    shutil.copytree(tmp_path / "other" / f"{policy}-other", tmp_path / "store" / policy)
    return Elsewhere(queue, weights, announced, tensors)


async def lost(store: WeightStore, chunk: str) -> None:
    await store.delete([chunk])


async def altered(store: WeightStore, chunk: str) -> None:
    data = await store.get(chunk, 2**26)
    await store.put(chunk, data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize("harm", [lost, altered])
async def test_a_delta_that_cannot_be_read_leaves_the_old_version_serving_and_the_next_anchor_heals(
    serving: Worker, elsewhere: Elsewhere, weights: WeightStore, harm: Any
) -> None:
    (chunk,) = await elsewhere.chunks(1)
    await harm(weights, chunk)
    elsewhere.announce(0)
    await until_true(served(serving.follower, 1))

    elsewhere.announce(1)
    await until_true(lambda: chunk[:16] in serving.follower.error)
    assert (serving.follower.serving.version, same(serving.tensors, elsewhere.tensors[0])) == (1, True)

    elsewhere.announce(2)
    await until_true(served(serving.follower, 3))
    assert same(serving.tensors, elsewhere.tensors[2])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sha256": "0" * 64}, "the store has other weights under this name"),
        ({"location": "2-0123456789abcdef"}, "2-0123456789abcdef"),
        ({"location": "../../etc"}, "../../etc"),
        ({"source": "checkpoint"}, "an adapter, and announced as a checkpoint"),
    ],
    ids=str,
)
async def test_what_is_announced_wrongly_is_refused_by_name(
    serving: Worker, elsewhere: Elsewhere, changes: dict[str, Any], told: str
) -> None:
    elsewhere.announce(1, **changes)
    await until_true(lambda: told in serving.follower.error)
    assert serving.follower.serving.version == 0


async def test_a_checkpoint_that_is_announced_as_an_adapter_is_refused(
    serving: Worker, weights: WeightStore, tiny_model: Path, elsewhere: Elsewhere
) -> None:
    manifest = await write(weights, 7, tensors_of(tiny_model))
    elsewhere.announce(0, version=7, location=manifest.name, sha256=manifest.sha256)
    await until_true(lambda: "no adapter, and announced as one" in serving.follower.error)


async def test_one_that_is_too_large_is_refused_before_a_chunk_is_fetched(
    redis: Redis, policy: str, weights: WeightStore, tiny_model: Path, tmp_path: Path, elsewhere: Elsewhere
) -> None:
    await weights.delete(await elsewhere.chunks(0))
    async with worker(redis, Keys(policy), weights, tiny_model, tmp_path, max_bytes=1000) as one:
        elsewhere.announce(0)
        await until_true(lambda: "exceed the worker's --max-adapter-bytes 1000" in one.follower.error)


async def test_a_worker_whose_disk_takes_no_copy_serves_the_old_version_on(
    serving: Worker, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere.announce(0)
    await until_true(served(serving.follower, 1))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(stored, "_copy", full)
        elsewhere.announce(1)
        await until_true(lambda: "cannot be written" in serving.follower.error)
        assert (serving.follower.serving.version, same(serving.tensors, elsewhere.tensors[0])) == (1, True)
    elsewhere.announce(2)
    await until_true(served(serving.follower, 3))


async def test_a_copy_with_other_bytes_is_not_served(
    serving: Worker, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = stored._copy

    def copied_wrong(source: Path, folder: Path) -> None:
        copy(source, folder)
        path = folder / "adapter_model.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"\x01")

    monkeypatch.setattr(stored, "_copy", copied_wrong)
    elsewhere.announce(0)
    await until_true(lambda: "its copy on the worker's disk has other bytes" in serving.follower.error)
    assert on_disk(serving.cache) == []


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


async def test_a_worker_that_serves_no_adapters_says_so(
    redis: Redis, policy: str, elsewhere: Elsewhere, tiny_model: Path
) -> None:
    engine = RecordingEngine()
    adapters = AdapterSupply(engine=engine, folder=AdapterFolder(root=None, max_rank=16, model=None), store=None)
    followed = make_follower(
        redis=redis, keys=Keys(policy), engine=engine, adapters=adapters, checkpoints=CheckpointSupply(folder=None),
        proofs=Proofs(), swap="keep", changed=lambda: None, measures=Measures(),
    )  # fmt: skip
    elsewhere.announce(0)
    async with following(followed):
        await until_true(lambda: "start it with --lora" in followed.error)
