"""Supplies with a cache of their own, and what they want."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rollstream.worker.checkpoints.supply import CheckpointSupply
from rollstream.worker.checkpoints.weights_cache import WeightsCache


@pytest.fixture
async def supply(steps: Path, tiny_model: Path, tmp_path: Path) -> AsyncIterator[CheckpointSupply]:
    """Copies the checkpoints below `steps` into `tmp_path/cache`."""
    supply = CheckpointSupply(folder=steps, cache=WeightsCache(root=tmp_path / "cache", model=tiny_model))
    await asyncio.to_thread(supply.open)
    yield supply
    await supply.close()
