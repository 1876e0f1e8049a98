"""Files of images from Redis, by the digest of their bytes: fetched once, verified, and kept while there is room."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from functools import partial
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.schemas import ErrorCode, Keys
from rollstream.schemas.times import MEDIA_TTL_S
from rollstream.schemas.wire.images import ImageRef

from ..errors import DataError
from ..redis_io.connections import retrying
from ..single_flight import SingleFlight
from .decode import refused
from .scripts import renew

log = structlog.get_logger()


class ImageFiles:
    """Those that were used last stay in memory. It changes in the worker's event loop alone."""

    def __init__(self, *, redis: Redis, keys: Keys, cache_bytes: int) -> None:
        self._redis = redis
        self._keys = keys
        self._cache_bytes = cache_bytes
        self._fetching = SingleFlight[bytes]()
        self._kept = OrderedDict[str, bytes]()
        self._gone = set[str]()
        """Those of them that were told to be gone from Redis."""
        self.nbytes = 0
        """The sum of the files that are kept."""

    async def read(self, ref: ImageRef) -> bytes:
        """The file's bytes; in Redis its time to live begins again. Waits while Redis is away.

        Raises `DataError`: `image_missing` where Redis has none, `image_refused` for other bytes than the digest says.
        """
        if (kept := self._kept.get(ref.sha256)) is not None:
            self._kept.move_to_end(ref.sha256)
            await self._fetching.result(f"{ref.sha256}:renew", partial(self._renewed, ref, kept))
            return kept
        return await self._fetching.result(f"{ref.sha256}:{ref.nbytes}", partial(self._fetch, ref))

    async def _fetch(self, ref: ImageRef) -> bytes:
        try:
            data = await retrying("read an image", self._get, ref)
        except RedisError as error:  # `retrying` waited for all that passes: the key has another type
            raise refused(f"its key in Redis holds something else: {error}") from None
        if not data:
            problem = (
                f"no image {ref.sha256[:12]} is in Redis: it expired {MEDIA_TTL_S} s after its last use, or later with "
                "its session, or was removed. Submit a prompt with the same file, of this policy, then this one again, "
                "under another id"
            )
            raise DataError(ErrorCode.IMAGE_MISSING, "images", problem)
        if len(data) != ref.nbytes or await asyncio.to_thread(_digest, data) != ref.sha256:
            key = self._keys.media(ref.sha256)  # a submit goes by the length, and would leave it there
            raise refused(
                f"the bytes in Redis are not those of image {ref.sha256[:12]}: DEL {key}, then submit it again"
            )
        self._keep(ref.sha256, data)
        return data

    async def _get(self, ref: ImageRef) -> bytes:
        """No more bytes than the job says, and one to tell whether there are more. Its time to live begins again."""
        client: Any = self._redis
        found: bytes = await client.getrange(self._keys.media(ref.sha256), 0, ref.nbytes)
        if found:
            await renew(self._redis, self._keys, ref.sha256)
        return found

    async def _renewed(self, ref: ImageRef, kept: bytes) -> bytes:
        """Others may need it who do not have it in memory; what is here is served whatever becomes of that."""
        try:
            is_there = await retrying("renew an image", renew, self._redis, self._keys, ref.sha256)
        except RedisError as error:
            log.warning("image not renewed", sha256=ref.sha256, error=str(error))
        else:
            self._tell_if_gone(ref, is_there=is_there)
        return kept

    def _tell_if_gone(self, ref: ImageRef, *, is_there: bool) -> None:
        """Once, until it is there again: a worker has no right to put it back, and later turns may come to others."""
        if is_there:
            self._gone.discard(ref.sha256)
        elif ref.sha256 not in self._gone:
            self._gone.add(ref.sha256)
            log.warning(
                "image gone from Redis, served from memory",
                sha256=ref.sha256,
                hint="submit a prompt with the same file: a worker without it answers image_missing",
            )

    def _keep(self, sha256: str, data: bytes) -> None:
        if len(data) > self._cache_bytes or sha256 in self._kept:
            return
        self._kept[sha256] = data
        self.nbytes += len(data)
        while self.nbytes > self._cache_bytes:
            name, oldest = self._kept.popitem(last=False)
            self._gone.discard(name)
            self.nbytes -= len(oldest)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
