"""An adapter from Redis lies in the cache folder whole and verified, or not at all; what is in use is never evicted."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from schemas import AdapterManifest, ErrorCode, Keys, NameRefusedError, SchemaError, decode
from worker.adapter_cache import AdapterCache
from worker.adapters import CONFIG_FILE, WEIGHTS_FILE
from worker.connections import cancelled, retrying
from worker.errors import DataError

TTL_S = 86_400
"""What an adapter that is used is kept for in Redis, from its last use on."""
RENEW_S = 600
_SLACK_S = 3_600
"""Chunks outlive their manifest: who finds it finds them."""

log = structlog.get_logger()


@dataclass(slots=True)
class _Kept:
    """One adapter on disk."""

    folder: Path
    manifest: AdapterManifest
    renewed_at: float


class AdapterStore:
    """Fetches adapters into folders below `cache`, each once, keeping what nobody uses within `cache_bytes`."""

    def __init__(self, redis: Redis, keys: Keys, cache: AdapterCache, max_bytes: int, cache_bytes: int) -> None:
        self._redis = redis
        self._keys = keys
        self._cache = cache
        self._max_bytes = max_bytes
        self._cache_bytes = cache_bytes
        self._fetching: dict[str, asyncio.Task[Path | None]] = {}
        self._reserved: dict[str, int] = {}
        """Bytes of what is being fetched."""
        self._kept: dict[str, _Kept] = {}
        """By name, the least recently used first."""
        self._users: Counter[str] = Counter()
        self._numbers = itertools.count(1)

    def __repr__(self) -> str:
        return f"<AdapterStore {len(self._kept)} adapters, {self._held()}/{self._cache_bytes} bytes>"

    @contextmanager
    def in_use(self, name: str) -> Iterator[None]:
        """It is not evicted meanwhile, also if it is only fetched then."""
        self._users[name] += 1
        try:
            yield
        finally:
            self._users[name] -= 1
            if not self._users[name]:
                del self._users[name]

    def folder(self, name: str) -> Path | None:
        """Where it lies; another folder after each fetch."""
        kept = self._kept.get(name)
        return None if kept is None else kept.folder

    async def fetch(self, name: str) -> Path | None:
        """The folder of the adapter, fetched once, whoever else waits for it; None where Redis has none of that name.

        Raises `DataError` (`adapter_refused`) for one that is too large, incomplete or not what its manifest says.
        """
        kept = self._kept.get(name)
        if kept is not None:
            self._kept[name] = self._kept.pop(name)
            await self.renew(name)
            return kept.folder
        fetching = self._fetching.get(name)
        if fetching is None:
            fetching = self._fetching[name] = asyncio.create_task(self._fetch(name))
            fetching.add_done_callback(partial(self._fetched, name))
        return await asyncio.shield(fetching)

    async def renew(self, name: str) -> None:
        """Keep it in Redis for workers that come later, if that is due. Nothing depends on it here."""
        kept, now = self._kept.get(name), time.monotonic()
        if kept is None or now - kept.renewed_at < RENEW_S:
            return
        kept.renewed_at = now
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                for number in range(kept.manifest.chunks):
                    pipe.expire(self._keys.blob(kept.manifest.sha256, number), TTL_S + _SLACK_S)
                pipe.expire(self._keys.adapter(name), TTL_S)
                await pipe.execute()
        except RedisError as error:
            log.warning("adapter not renewed", adapter=name, error=str(error))

    async def close(self) -> None:
        """Give up what is being fetched."""
        fetching = list(self._fetching.values())
        for task in fetching:
            task.cancel()
        await asyncio.gather(*fetching, return_exceptions=True)

    def _fetched(self, name: str, fetching: asyncio.Task[Path | None]) -> None:
        del self._fetching[name]
        if not fetching.cancelled():
            fetching.exception()  # all who waited for it may have been cancelled

    async def _fetch(self, name: str) -> Path | None:
        try:
            data: Any = await retrying("read a manifest", self._redis.get, self._keys.adapter(name))
            if data is None:
                return None
            return await self._download(_opened(name, data, self._max_bytes))
        except NameRefusedError:
            return None
        except RedisError as error:  # what passes was waited for: a key is of another type
            raise _refusal(name, f"Redis holds something else under its name: {error}") from None
        except OSError as error:
            raise _refusal(name, f"the worker's adapter cache cannot be written: {error.strerror}") from error

    async def _download(self, manifest: AdapterManifest) -> Path:
        name, began = manifest.name, time.monotonic()
        folder = self._cache.folder / f"{name}.{next(self._numbers)}"
        self._reserved[name] = _nbytes(manifest)
        try:
            await self._make_room()
            await asyncio.to_thread(_begin, folder, manifest)
            digest = hashlib.sha256(manifest.config)
            for number in range(manifest.chunks):
                await asyncio.to_thread(_append, folder, await self._chunk(manifest, number), digest)
            if digest.hexdigest() != manifest.sha256:
                raise _refusal(name, "its bytes do not match its digest; publish it under another version")
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            del self._reserved[name]
        self._kept[name] = _Kept(folder, manifest, time.monotonic())
        log.info("adapter fetched", adapter=name, bytes=manifest.num_bytes, seconds=round(time.monotonic() - began, 3))
        return folder

    async def _chunk(self, manifest: AdapterManifest, number: int) -> bytes:
        """No more than the manifest says, whatever the key holds."""
        if cancelled():
            raise asyncio.CancelledError
        size = min(manifest.chunk_bytes, manifest.num_bytes - number * manifest.chunk_bytes)
        key = self._keys.blob(manifest.sha256, number)
        chunk: Any = await retrying("read an adapter", self._redis.getrange, key, 0, size - 1)
        if len(chunk) < size:
            problem = "gone" if not chunk else "too short"
            raise _refusal(manifest.name, f"chunk {number} of {manifest.chunks} is {problem}; publish it again")
        return bytes(chunk)

    async def _make_room(self) -> None:
        """Remove the least recently used adapters that nobody uses until what is being fetched fits."""
        while self._held() > self._cache_bytes:
            name = next((name for name in self._kept if name not in self._users), None)
            if name is None:
                log.warning("adapters in use exceed --adapter-cache-bytes", held=self._held(), limit=self._cache_bytes)
                return
            # Gone before the first wait: who asks for it from here on fetches it again, into another folder.
            kept = self._kept.pop(name)
            log.info("adapter evicted", adapter=name)
            await asyncio.to_thread(shutil.rmtree, kept.folder, ignore_errors=True)

    def _held(self) -> int:
        return sum(_nbytes(kept.manifest) for kept in self._kept.values()) + sum(self._reserved.values())


def _nbytes(manifest: AdapterManifest) -> int:
    return len(manifest.config) + manifest.num_bytes


def _begin(folder: Path, manifest: AdapterManifest) -> None:
    folder.mkdir()
    (folder / CONFIG_FILE).write_bytes(manifest.config)
    (folder / WEIGHTS_FILE).touch()


def _append(folder: Path, chunk: bytes, digest: Any) -> None:
    digest.update(chunk)
    with (folder / WEIGHTS_FILE).open("ab") as file:
        file.write(chunk)


def _opened(name: str, data: bytes, max_bytes: int) -> AdapterManifest:
    try:
        manifest = decode(data, AdapterManifest)
    except SchemaError as error:
        raise _refusal(name, f"its manifest cannot be read: {error}") from None
    if manifest.name != name:
        raise _refusal(name, f"its manifest is that of {manifest.name!r}")
    if manifest.num_bytes > max_bytes:
        raise _refusal(name, f"{manifest.num_bytes} bytes exceed the worker's --max-adapter-bytes {max_bytes}")
    return manifest


def _refusal(name: str, problem: str) -> DataError:
    return DataError(ErrorCode.ADAPTER_REFUSED, "adapter", f"adapter {name!r}: {problem}")
