"""An adapter from Redis lies in the cache folder whole and verified, or not at all; what is in use is never evicted."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from schemas import AdapterManifest, ErrorCode, Keys, SchemaError, decode
from worker.adapters import CONFIG_FILE, WEIGHTS_FILE
from worker.connections import retrying
from worker.errors import DataError

TTL_S = 86_400
"""What an adapter that is used is kept for in Redis, from its last use on."""
_RENEW_S = 600

log = structlog.get_logger()


class AdapterStore:
    """Fetches adapters into `<cache>/<name@version>/`, each once, keeping the folder under `cache_bytes`."""

    def __init__(self, redis: Redis, keys: Keys, cache: Path, max_bytes: int, cache_bytes: int) -> None:
        self.cache = cache
        self._redis = redis
        self._keys = keys
        self._max_bytes = max_bytes
        self._cache_bytes = cache_bytes
        self._fetching: dict[str, asyncio.Task[bool]] = {}
        self._sizes: dict[str, int] = {}
        """By name, the least recently used first."""
        self._renewed_at: dict[str, float] = {}

    async def fetch(self, name: str) -> bool:
        """Whether the adapter is in the cache now: fetched once, whoever else waits for it.

        False where Redis has none of that name. Raises `DataError` (`adapter_refused`) for one that is too large,
        incomplete or not what its manifest says.
        """
        if name in self._sizes:
            self._sizes[name] = self._sizes.pop(name)
            await self._renew(name)
            return True
        fetching = self._fetching.get(name)
        if fetching is None:
            fetching = self._fetching[name] = asyncio.create_task(self._download(name))
            fetching.add_done_callback(lambda _: self._fetching.pop(name))
        return await asyncio.shield(fetching)

    def evict(self, in_use: set[str]) -> list[str]:
        """Remove the least recently used adapters that nobody uses until the rest fits; their names."""
        gone = []
        for name in [name for name in self._sizes if name not in in_use]:
            if sum(self._sizes.values()) <= self._cache_bytes:
                break
            del self._sizes[name]
            shutil.rmtree(self.cache / name, ignore_errors=True)
            log.info("adapter evicted", adapter=name)
            gone.append(name)
        return gone

    async def _download(self, name: str) -> bool:
        data: Any = await retrying("read manifest", self._redis.get, self._keys.adapter(name))
        if data is None:
            return False
        manifest = _checked(name, data, self._max_bytes)
        began = time.monotonic()
        self.cache.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=self.cache))
        try:
            await self._write(manifest, partial)
            shutil.rmtree(self.cache / name, ignore_errors=True)  # of an earlier process, maybe incomplete
            partial.rename(self.cache / name)
        except OSError as error:
            raise _refusal(name, f"the worker's adapter cache cannot be written: {error.strerror}") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        self._sizes[name] = manifest.num_bytes
        self._renewed_at[name] = time.monotonic()
        log.info("adapter fetched", adapter=name, bytes=manifest.num_bytes, seconds=round(time.monotonic() - began, 3))
        return True

    async def _write(self, manifest: AdapterManifest, folder: Path) -> None:
        """One chunk in memory at a time."""
        digest = hashlib.sha256(manifest.config)
        written = 0
        with (folder / CONFIG_FILE).open("wb") as file:
            file.write(manifest.config)
        with (folder / WEIGHTS_FILE).open("wb") as file:
            for number in range(manifest.chunks):
                chunk: Any = await retrying("read adapter", self._redis.get, self._keys.blob(manifest.sha256, number))
                if chunk is None:
                    raise _refusal(manifest.name, f"chunk {number} of {manifest.chunks} is gone; publish it again")
                written += len(chunk)
                if written > manifest.num_bytes:
                    break
                digest.update(chunk)
                file.write(chunk)
        if written != manifest.num_bytes or digest.hexdigest() != manifest.sha256:
            raise _refusal(manifest.name, "its bytes do not match its digest; publish it again under a new version")

    async def _renew(self, name: str) -> None:
        """Keep it in Redis for workers that come later. Nothing depends on it here."""
        now = time.monotonic()
        if now - self._renewed_at[name] < _RENEW_S:
            return
        self._renewed_at[name] = now
        try:
            data: Any = await self._redis.getex(self._keys.adapter(name), ex=TTL_S)
            manifest = decode(data or b"", AdapterManifest)
            for number in range(manifest.chunks):
                await self._redis.expire(self._keys.blob(manifest.sha256, number), TTL_S)
        except (RedisError, SchemaError) as error:
            log.warning("adapter not renewed", adapter=name, error=str(error))


def _checked(name: str, data: bytes, max_bytes: int) -> AdapterManifest:
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
