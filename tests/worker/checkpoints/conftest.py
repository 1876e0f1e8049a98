"""Supplies with a cache of their own, and what they want."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rollstream.schemas import Keys
from rollstream.transport.weights import WeightStore, store_of
from rollstream.worker.checkpoints.store_versions import StoreVersions
from rollstream.worker.checkpoints.supply import CheckpointSupply
from rollstream.worker.checkpoints.weights_cache import WeightsCache
from tests.support.weights.weight_versions import Tensors, tensors_of


@pytest.fixture(scope="module")
def boot(tiny_model: Path) -> Tensors:
    """The tensors of the boot model."""
    return tensors_of(tiny_model)


@pytest.fixture
async def supply(steps: Path, tiny_model: Path, tmp_path: Path) -> AsyncIterator[CheckpointSupply]:
    """Copies the checkpoints below `steps` into `tmp_path/cache`."""
    supply = CheckpointSupply(folder=steps, cache=WeightsCache(root=tmp_path / "cache", model=tiny_model))
    await asyncio.to_thread(supply.open)
    yield supply
    await supply.close()


@pytest.fixture
def weights(tmp_path: Path) -> WeightStore:
    """An empty store."""
    (tmp_path / "weights").mkdir()
    return store_of(tmp_path / "weights", Keys("p"))


@pytest.fixture
async def fetching(weights: WeightStore, tiny_model: Path, tmp_path: Path) -> AsyncIterator[CheckpointSupply]:
    """Brings what is in `weights` into `tmp_path/cache`."""
    cache = WeightsCache(root=tmp_path / "cache", model=tiny_model)
    store = StoreVersions(store=weights, cache=cache, model=tiny_model)
    supply = CheckpointSupply(folder=None, cache=cache, store=store, timeout_s=30)
    await asyncio.to_thread(supply.open)
    yield supply
    await supply.close()
