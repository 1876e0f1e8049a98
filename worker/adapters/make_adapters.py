"""Makes the objects of this room; `app` calls it, and nothing else does."""

from __future__ import annotations

from redis.asyncio import Redis

from rollstream.schemas import Keys

from ..cache_folder import CacheFolder
from ..config import WorkerSettings
from ..engine import Engine
from .folder import AdapterFolder
from .store import AdapterStore
from .supply import AdapterSupply


def make_adapters(
    *, settings: WorkerSettings, redis: Redis, keys: Keys, engine: Engine, cache: CacheFolder
) -> AdapterSupply:
    """`cache`: opened by `app` once adapters are served, and closed at the end."""
    folder = AdapterFolder(root=settings.adapter_dir, max_rank=settings.max_lora_rank, model=settings.model)
    store = None
    if settings.serves_adapters:
        store = AdapterStore(
            redis=redis,
            keys=keys,
            cache=cache,
            max_bytes=settings.max_adapter_bytes,
            cache_bytes=settings.adapter_cache_bytes,
        )
    return AdapterSupply(engine=engine, folder=folder, store=store)
