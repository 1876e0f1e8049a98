"""A worker that serves adapters from the store, and a trainer's versions, announced or not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from redis.asyncio import Redis
from safetensors.torch import load_file

from rollstream import AsyncClient
from rollstream.schemas import Keys, PolicyVersion, encode
from rollstream.transport.weights import WeightStore, read_chain
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
from tests.support.adapter_steps import RecordingEngine
from tests.support.faults import Queue
from tests.support.weights.following import following

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
