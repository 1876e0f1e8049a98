"""The supply of checkpoints that a worker's settings ask for."""

from __future__ import annotations

from ..config import WorkerSettings
from .supply import CheckpointSupply
from .weights_cache import WeightsCache


def make_checkpoints(*, settings: WorkerSettings) -> CheckpointSupply:
    """It has a cache if one is named."""
    cache = None
    if settings.weights_cache is not None:
        cache = WeightsCache(root=settings.weights_cache, model=settings.model)
    return CheckpointSupply(folder=settings.checkpoint_dir, cache=cache)
