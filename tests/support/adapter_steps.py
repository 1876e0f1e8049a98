"""Shared by tests of adapters through Redis: adapters written as a producer does, an engine that tells what it has."""

from __future__ import annotations

import hashlib
from typing import Any

from redis.asyncio import Redis

from rollstream.schemas import AdapterManifest, Keys, encode
from rollstream.worker.cache_folder import CacheFolder
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.requests import Adapter

CHUNK = 200
CONFIG = b"{}"
SIZE = 500
"""Size of an adapter that `put` writes: three chunks, the last one shorter."""


async def put(redis: Redis, keys: Keys, name: str, content: str = "", **changes: Any) -> AdapterManifest:
    """Write an adapter of `SIZE` bytes, those of its name or of `content`, as a producer does."""
    weights = ((content or name).encode() * SIZE)[:SIZE]
    manifest = AdapterManifest(
        name=name, sha256=hashlib.sha256(CONFIG + weights).hexdigest(), config=CONFIG, num_bytes=SIZE,
        chunk_bytes=CHUNK, published_at=0.0,
    ).model_copy(update=changes)  # fmt: skip
    for number in range(manifest.chunks):
        chunk = weights[number * CHUNK : (number + 1) * CHUNK]
        await redis.set(keys.blob(manifest.sha256, number), chunk, ex=1000)
    await redis.set(keys.adapter(name), encode(manifest), ex=1000)
    return manifest


async def expire(redis: Redis, keys: Keys, manifest: AdapterManifest) -> None:
    """Delete it, as its TTL would."""
    chunks = [keys.blob(manifest.sha256, number) for number in range(manifest.chunks)]
    await redis.delete(keys.adapter(manifest.name), *chunks)


def on_disk(cache: CacheFolder) -> list[str]:
    """Names of the adapters in the cache, whole or not, each as often as it is there."""
    return sorted(path.name.rpartition(".")[0] for path in cache.folder.iterdir() if path.is_dir())


class RecordingEngine(StubEngine):
    """Remembers what it has."""

    def __init__(self) -> None:
        super().__init__(WorkerSettings(policy="p", engine="stub"))
        self.loaded: list[Adapter] = []

    async def load_adapter(self, adapter: Adapter) -> None:
        if adapter not in self.loaded:
            self.loaded.append(adapter)

    async def unload_adapter(self, adapter: Adapter) -> None:
        self.loaded.remove(adapter)
