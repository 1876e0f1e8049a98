"""Policy versions are what the two streams say now, also if they were deleted and started again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from rollstream.schemas import Keys
from rollstream.schemas.entry_id import MAX_VERSION, after
from rollstream.schemas.errors import cut
from rollstream.schemas.wire.policies import Activation
from rollstream.transport.versions import scripts

from ..measure.redis_errors import FAILED
from ..redis_io.connections import cancelled
from ..weights.contents import Contents
from . import decisions
from .announced import Announced, activation_in, announced_in, version_in

_AT_MOST = 16
"""How many of the newest versions and activations are read; the newest complete one is served."""
_PAGES = 100
"""How many times so many older versions are read to find an active one, with many that nobody activated after it: more
than the stream keeps."""
_NEWEST = f"{MAX_VERSION}"
"""The last possible version. Later entries are no versions, and must not hide the versions however many there are."""

log = structlog.get_logger()


class Announcements:
    """Asks at each look whether the newest entry of a stream has changed, and only then reads the newest few.

    One look at a time changes it; the follower reads what it found.
    """

    def __init__(self, *, redis: Redis, keys: Keys) -> None:
        self._versions = keys.versions()
        self._activations = keys.activations()
        self._redis = redis
        self._keys = keys
        self._heads: Any = None
        self._looking = asyncio.Lock()
        self._looked_at = 0.0
        self.versions: tuple[Announced, ...] = ()
        """The newest first, as last read: all of the newest few, and of older ones what is active. An empty stream
        changes nothing."""
        self.active: tuple[Announced, ...] = ()
        """Those that are, or were, the one to serve, the newest first."""
        self.problem = ""
        """Why Redis gives nothing of the streams though it answers, such as a key of another type; else empty."""

    @property
    def newest(self) -> int:
        """The newest active version, whether it can be served or not; 0 if there is none."""
        return self.active[0].version if self.active else 0

    @property
    def announced(self) -> int:
        """The newest announced version, active or not; 0 if there is none."""
        return self.versions[0].version if self.versions else 0

    def content_of(self, version: int, contents: Contents) -> str | None:
        """The digest of the version of this number, if it is among those that were read."""
        found = (one for one in (*self.versions, *self.active) if one.version == version)
        return next((one.content(contents) for one in found), None)

    async def look(self) -> bool:
        """Read all announcements made before this call, if Redis answers.

        Callers that come during a look share the next one; False for those whose look another has made.
        """
        asked_at = time.monotonic()
        async with self._looking:
            if self._looked_at > asked_at:
                return False
            began = time.monotonic()
            try:
                await self.read()
                self.problem = ""
            except RedisError as error:
                if cancelled():
                    raise asyncio.CancelledError from error
                self._failed(error)
            self._looked_at = began
        return True

    async def read(self) -> None:
        """Read the streams. Raises `RedisError`, with the name of a key that is no stream."""
        heads = await scripts.heads(self._redis, self._keys)
        if not heads[0] or heads == self._heads:
            return
        # First the activations: each is written after its announcement.
        activated: Any = await self._redis.xrevrange(self._activations, _NEWEST, count=_AT_MOST)
        found = {version: activation_in(version, fields) for version, fields in _numbered(activated)}
        activations = {version: said for version, said in found.items() if said is not None}
        head, versions, activations = await self._read_versions(activations)
        if head:
            self._heads = heads  # of before: what came since is seen at the next look
            self.versions, self.active = tuple(versions), decisions.active(versions, activations)

    def _failed(self, error: RedisError) -> None:
        FAILED.add()
        log.debug("versions not read", error=str(error))
        if isinstance(error, ResponseError):  # others pass by themselves
            problem = cut(f"no version can be seen: {error}")
            if problem != self.problem:
                log.warning("versions cannot be read until that is mended", problem=problem)
            self.problem = problem

    async def _read_versions(
        self, activations: dict[int, Activation]
    ) -> tuple[Any, list[Announced], dict[int, Activation]]:
        """The newest entry as it is, the versions, and which `activations` are of these.

        Versions are the newest few, then active ones, back to one at least.
        """
        head: Any = []
        found: list[Announced] = []
        newest = _NEWEST
        for _ in range(_PAGES):
            page: Any = await self._redis.xrevrange(self._versions, newest, count=_AT_MOST)
            opened = [announced_in(version, fields) for version, fields in _numbered(page)]
            activations = decisions.of_these(opened, activations)
            active = [one for one in opened if decisions.is_active(one, activations)]
            found += active if head else opened
            head = head or page[:1]
            if active or len(page) < _AT_MOST:
                break
            newest = after(page[-1][0])
        return head, found, activations


def _numbered(entries: Any) -> Iterator[tuple[int, Any]]:
    """Version and fields of each entry; nobody can have written any other to say something of a version."""
    for entry_id, fields in entries:
        if (version := version_in(entry_id)) is not None:
            yield version, fields
