"""A store, a trainer that publishes to it, and a worker that serves from it."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from safetensors.torch import load_file

from rollstream import AsyncClient
from rollstream.schemas import Keys
from rollstream.transport.weights import WeightStore, store_of
from tests.support.faults import Queue
from tests.worker.versions.stored_adapters.parts import Elsewhere, Tensors, Worker, stepped, worker


@pytest.fixture
def weights(tmp_path: Path, policy: str) -> WeightStore:
    (tmp_path / "store").mkdir()
    return store_of(tmp_path / "store", Keys(policy))


@pytest.fixture
async def publisher(redis_url: str, policy: str, weights: WeightStore, tmp_path: Path) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(redis_url, policy=policy, weights=tmp_path / "store") as client:
        yield client


@pytest.fixture
async def serving(
    redis: Redis, policy: str, weights: WeightStore, tiny_model: Path, tmp_path: Path
) -> AsyncIterator[Worker]:
    async with worker(redis, Keys(policy), weights, tiny_model, tmp_path) as one:
        yield one


@pytest.fixture
def trained(adapter_dir: Path) -> Tensors:
    return load_file(adapter_dir / "math@1" / "adapter_model.safetensors")


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
