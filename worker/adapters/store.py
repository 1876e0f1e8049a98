"""Adapters from Redis or the weight store in the cache folder: complete and verified, or not there.

One in use is never evicted.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.schemas import AdapterManifest, Keys, NameRefusedError
from rollstream.schemas.times import ADAPTER_RENEW_S, ADAPTER_SLACK_S, ADAPTER_TTL_S

from ..cache_folder import CacheFolder
from ..errors import CacheUnwritableError, DataError, adapter_refused
from ..measure.redis_errors import FAILED
from ..redis_io.connections import retrying
from ..single_flight import SingleFlight
from .download import check_chunks, download, opened
from .kept import Kept
from .stored import copy_stored, stored_bytes, stored_digest

AGAIN_S = 10
"""Seconds before bytes that did not match their digest are fetched again, or a failed renewal is repeated."""

log = structlog.get_logger()


class AdapterStore:
    """Fetches adapters into folders below `cache`, each once, and evicts unused ones beyond `cache_bytes`.

    All of it changes in the worker's event loop, between two awaits. A download reserves its bytes before it begins
    and gives them up when it ends; what was fetched is kept until it is evicted, which happens only while nobody
    uses it; content that was replaced stays until its last user has left.
    """

    def __init__(self, *, redis: Redis, keys: Keys, cache: CacheFolder, max_bytes: int, cache_bytes: int) -> None:
        self._redis = redis
        self._keys = keys
        self._cache = cache
        self._max_bytes = max_bytes
        self._cache_bytes = cache_bytes
        self._reads: SingleFlight[AdapterManifest | None] = SingleFlight()
        self._downloads: SingleFlight[Path] = SingleFlight()
        self._reserved: dict[Path, int] = {}
        """Bytes of the adapters that are being fetched, by folder."""
        self._kept: dict[str, Kept] = {}
        """By name, the least recently used first."""
        self._replaced: list[Kept] = []
        self._users: dict[str, set[object]] = {}
        self._altered: dict[str, tuple[AdapterManifest, float]] = {}
        """Adapters that did not match their digest, and when they may be fetched again."""
        self._lacked = 0
        """Bytes of the largest adapter for which the disk had no room, since it last had some."""
        self._numbers = 0

    def __repr__(self) -> str:
        return f"<AdapterStore {len(self._kept)} adapters, {self._held()}/{self._cache_bytes} bytes>"

    @contextmanager
    def in_use(self, name: str) -> Iterator[None]:
        """Entered while the adapter is used: it is not evicted, even if it is fetched only later."""
        user = object()
        self._users.setdefault(name, set()).add(user)
        try:
            yield
        finally:
            self._users[name].discard(user)
            if not self._users[name]:
                del self._users[name]
            for kept in self._replaced:
                kept.users.discard(user)

    def holds(self, folder: Path) -> bool:
        """Whether an adapter that was fetched into `folder` is still there."""
        return any(kept.folder == folder for kept in (*self._replaced, *self._kept.values()))

    def sha256_of(self, folder: Path) -> str | None:
        """The digest with which the adapter in `folder` came."""
        return next((kept.sha256 for kept in (*self._replaced, *self._kept.values()) if kept.folder == folder), None)

    async def fetch(self, name: str) -> Path | None:
        """The folder of the adapter that Redis has under this name, fetched once for all callers; None if it has none.

        A cached adapter is used while Redis is away and after it is gone from Redis; it is never written back. Other
        content gets another folder. Raises `DataError` (`adapter_refused`) for an adapter that is too large, incomplete
        or not what its manifest says, and `CacheUnwritableError`.
        """
        manifest = await self._reads.result(name, partial(self._manifest, name))
        kept = self._kept.get(name)
        if manifest is None and kept is None:  # that shared read may have begun before the adapter was published
            manifest = await self._manifest(name)
            kept = self._kept.get(name)
        if kept is not None and (manifest is None or manifest.sha256 == kept.sha256):
            self._kept[name] = self._kept.pop(name)
            await self.renew(name)
            return kept.folder
        if manifest is None:
            return None
        return await self._downloads.result(f"{name} {manifest.sha256}", partial(self._download, manifest))

    async def adopt(self, name: str, sha256: str, bring: Callable[[], Awaitable[Path]]) -> Path:
        """The folder of an adapter from the weight store, copied from the one that `bring` gives unless it is kept.

        A copy, because what is brought goes with the next versions, and running jobs need their adapter for longer.
        Raises what `bring` raises, `DataError` (`adapter_refused`), `CacheUnwritableError`.
        """
        kept = self._kept.get(name)
        if kept is not None and await asyncio.to_thread(stored_digest, kept.folder) == sha256:
            self._kept[name] = self._kept.pop(name)
            return kept.folder
        source = await bring()
        return await self._downloads.result(f"{name} {sha256}", partial(self._copy, name, sha256, source))

    async def renew(self, name: str) -> None:
        """If due, renew the adapter's TTL in Redis, for workers that need it later. A failure does no harm here."""
        kept, now = self._kept.get(name), time.monotonic()
        if kept is None or not kept.chunks or now < kept.renew_at:
            return
        kept.renew_at = now + ADAPTER_RENEW_S
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                for number in range(kept.chunks):
                    pipe.expire(self._keys.blob(kept.sha256, number), ADAPTER_TTL_S + ADAPTER_SLACK_S)
                pipe.expire(self._keys.adapter(name), ADAPTER_TTL_S)
                await pipe.execute()
        except RedisError as error:
            FAILED.add()
            kept.renew_at = now + AGAIN_S
            log.warning("adapter not renewed", adapter=name, error=str(error))

    async def is_writable(self) -> bool:
        """Whether the largest adapter that did not fit would fit now. Evicts all unused adapters."""
        await self._evict_all()
        try:
            await asyncio.to_thread(self._cache.check, self._lacked)
        except OSError as error:
            log.debug("adapter cache still cannot be written", error=error.strerror, bytes=self._lacked)
            return False
        self._lacked = 0
        return True

    async def close(self) -> None:
        """Stop all fetching."""
        await self._reads.close()
        await self._downloads.close()

    async def _manifest(self, name: str) -> AdapterManifest | None:
        """The manifest; None if Redis has none, or if Redis does not answer and the adapter is cached."""
        try:
            key = self._keys.adapter(name)
            if name in self._kept:
                data: Any = await self._redis.get(key)
            else:
                data = await retrying("read a manifest", self._redis.get, key)
        except NameRefusedError:
            return None
        except RedisError as error:
            if name not in self._kept:
                raise _not_ours(name, error) from None
            FAILED.add()
            log.debug("manifest not read, using what is kept", adapter=name, error=str(error))
            return None
        return None if data is None else opened(name, data, self._max_bytes)

    async def _download(self, manifest: AdapterManifest) -> Path:
        name = manifest.name
        bad, until = self._altered.get(name, (None, 0.0))
        if bad == manifest and time.monotonic() < until:
            raise _altered(name)
        try:
            await check_chunks(self._redis, self._keys, manifest)
            nbytes = len(manifest.config) + manifest.num_bytes
            new = Kept(name=name, sha256=manifest.sha256, num_bytes=nbytes, chunks=manifest.chunks)
            await self._write(new, partial(self._fill, manifest))
        except RedisError as error:  # `retrying` waited for all that passes: a key has another type
            raise _not_ours(name, error) from None
        await self.renew(name)
        return new.folder

    async def _fill(self, manifest: AdapterManifest, folder: Path) -> None:
        if await download(self._redis, self._keys, manifest, folder) != manifest.sha256:
            self._remember(manifest)
            raise _altered(manifest.name)

    async def _copy(self, name: str, sha256: str, source: Path) -> Path:
        try:
            nbytes = await asyncio.to_thread(stored_bytes, source)
        except OSError as error:
            raise adapter_refused(name, f"what was brought of it is gone ({error.strerror})") from None
        new = Kept(name=name, sha256=sha256, num_bytes=nbytes, chunks=0)
        await self._write(new, partial(copy_stored, name, source, sha256))
        return new.folder

    async def _write(self, new: Kept, fill: Callable[[Path], Awaitable[None]]) -> None:
        """Let `fill` write its folder, and keep it. Once all others had to go for it, it is tried once more."""
        try:
            try:
                await self._filled(new, fill)
            except OSError:
                if not await self._evict_all():
                    raise
                await self._filled(new, fill)
        except OSError as error:
            nbytes = new.num_bytes
            if not self._cache.can_ever_hold(nbytes):  # otherwise it would stop one worker after the other
                raise adapter_refused(new.name, f"its {nbytes} bytes exceed the disk of the worker's cache") from None
            self._lacked = max(self._lacked, nbytes)
            raise CacheUnwritableError(self._cache.folder, nbytes, error) from None

    async def _filled(self, new: Kept, fill: Callable[[Path], Awaitable[None]]) -> None:
        began = time.monotonic()
        self._numbers += 1
        new.folder = self._cache.folder / f"{new.name}.{self._numbers}"
        self._reserved[new.folder] = new.num_bytes
        try:
            await self._make_room()
            await fill(new.folder)
        except BaseException:
            shutil.rmtree(new.folder, ignore_errors=True)
            raise
        finally:
            del self._reserved[new.folder]
        self._keep(new)
        seconds = round(time.monotonic() - began, 3)
        log.info("adapter fetched", adapter=new.name, bytes=new.num_bytes, seconds=seconds)

    def _remember(self, manifest: AdapterManifest) -> None:
        """Note a wrong digest, so that not every job that names the adapter fetches it again for nothing."""
        now = time.monotonic()
        self._altered = {name: (bad, until) for name, (bad, until) in self._altered.items() if until > now}
        self._altered[manifest.name] = manifest, now + AGAIN_S

    def _keep(self, kept: Kept) -> None:
        name = kept.name
        before = self._kept.pop(name, None)
        if before is not None:
            before.users = set(self._users.get(name, ()))
            self._replaced.append(before)
            log.warning("adapter has other content than before", adapter=name)
        self._kept[name] = kept

    async def _make_room(self) -> None:
        """Evict unused adapters until those being fetched fit."""
        while self._held() > self._cache_bytes:
            if not await self._evict_one():
                log.warning("adapters in use exceed --adapter-cache-bytes", held=self._held(), limit=self._cache_bytes)
                return

    async def _evict_all(self) -> bool:
        """Evict all unused adapters. Returns whether there were any."""
        any_gone = False
        while await self._evict_one():
            any_gone = True
        return any_gone

    async def _evict_one(self) -> bool:
        """Evict one unused adapter: one whose name has other content, else the least recently used."""
        kept = next((kept for kept in self._replaced if not kept.users), None)
        if kept is not None:
            self._replaced.remove(kept)
        else:
            kept = next((kept for name, kept in self._kept.items() if name not in self._users), None)
            if kept is None:
                return False
            # Removed before the first await: a later caller fetches it again, into another folder.
            del self._kept[kept.name]
        log.info("adapter evicted", adapter=kept.name)
        await asyncio.to_thread(shutil.rmtree, kept.folder, ignore_errors=True)
        return True

    def _held(self) -> int:
        kept = sum(kept.num_bytes for kept in (*self._replaced, *self._kept.values()))
        return kept + sum(self._reserved.values())


def _altered(name: str) -> DataError:
    return adapter_refused(name, "its bytes do not match its digest; publish it under another version")


def _not_ours(name: str, error: RedisError) -> DataError:
    return adapter_refused(name, f"Redis holds something else under its name: {error}")
