"""The supply of checkpoints that a worker's settings ask for."""

from __future__ import annotations

from redis.asyncio import Redis

from rollstream.schemas import Keys
from rollstream.transport.weights import WeightStore, WeightStoreError, store_of
from rollstream.transport.weights.in_redis import PlainCall

from ..config import WorkerSettings
from ..errors import SettingsError
from .store_versions import StoreVersions
from .supply import CheckpointSupply
from .weights_cache import WeightsCache


def make_checkpoints(*, settings: WorkerSettings, redis: Redis, keys: Keys) -> CheckpointSupply:
    """It has a cache if one is named, or versions come through the store. Raises `SettingsError`. May block."""
    cache, store = None, None
    if settings.weights_cache is not None or settings.weights is not None:
        cache = WeightsCache(root=settings.weights_cache, model=settings.model)
        if settings.weights is not None:
            store = StoreVersions(
                store=_store(settings.weights, redis, keys),
                cache=cache,
                model=settings.model,
                max_adapter_bytes=settings.max_adapter_bytes,
            )
    return CheckpointSupply(folder=settings.checkpoint_dir, cache=cache, store=store, timeout_s=settings.load_timeout_s)


def _store(place: str, redis: Redis, keys: Keys) -> WeightStore:
    try:
        return store_of(place, keys, PlainCall(redis))
    except WeightStoreError as error:
        raise SettingsError(f"--weights: {error}") from None
