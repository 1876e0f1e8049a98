"""A store that hangs holds no worker up for longer than it allows, and leaves nothing in the cache."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rollstream.transport.weights import WeightStore
from rollstream.worker.checkpoints.store_versions import StoreVersions
from rollstream.worker.checkpoints.supply import CheckpointSupply
from rollstream.worker.checkpoints.weights_cache import WeightsCache
from rollstream.worker.errors import VersionRefusedError
from tests.support.weights.weight_versions import tensors_of, wanted, write
from tests.worker.checkpoints.test_copies import copies


class Hanging:
    """A store whose chunks never come."""

    def __init__(self, store: WeightStore) -> None:
        self._store = store
        self.asked = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def get(self, name: str, most: int) -> bytes:
        if len(name) == 64:
            self.asked.set()
            await asyncio.Event().wait()
        return await self._store.get(name, most)


@pytest.fixture
def hanging(weights: WeightStore) -> Hanging:
    return Hanging(weights)


@pytest.fixture
def opened(tiny_model: Path, tmp_path: Path) -> Iterator[WeightsCache]:
    cache = WeightsCache(root=tmp_path / "cache", model=tiny_model)
    cache.open()
    yield cache
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)


async def test_a_store_that_hangs_costs_no_more_than_the_time_limit(
    weights: WeightStore, hanging: Hanging, opened: WeightsCache, tiny_model: Path, tmp_path: Path
) -> None:
    manifest = await write(weights, 1, tensors_of(tiny_model))
    store: Any = hanging
    versions = StoreVersions(store=store, cache=opened, model=tiny_model)
    supply = CheckpointSupply(folder=None, cache=opened, store=versions, timeout_s=0.5)
    began = time.monotonic()

    with pytest.raises(VersionRefusedError, match=r"not fetched within 0\.5 s \(--load-timeout-s\)"):
        await supply.prepare(wanted(manifest))

    assert time.monotonic() - began < 5
    await supply.close()
    assert not copies(tmp_path / "cache")


async def test_a_fetch_that_is_cancelled_ends_and_leaves_nothing(
    weights: WeightStore, hanging: Hanging, opened: WeightsCache, tiny_model: Path, tmp_path: Path
) -> None:
    manifest = await write(weights, 1, tensors_of(tiny_model))
    store: Any = hanging
    versions = StoreVersions(store=store, cache=opened, model=tiny_model)
    supply = CheckpointSupply(folder=None, cache=opened, store=versions, timeout_s=60)
    task = asyncio.create_task(supply.prepare(wanted(manifest)))
    await hanging.asked.wait()

    task.cancel()
    await supply.close()

    assert not copies(tmp_path / "cache")
    with pytest.raises(asyncio.CancelledError):
        await task
