"""Policy versions are what the versions stream says now, also if the stream was deleted and started again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Literal

from redis.asyncio import Redis

from rollstream.schemas import Keys, PolicyVersion, SchemaError, decode
from rollstream.schemas.entry_id import MAX_VERSION, EntryId
from rollstream.schemas.wire.entry_fields import PAYLOAD
from rollstream.schemas.wire.policies import Activate, Transport, VersionSource
from rollstream.schemas.wire.probe import Probe
from rollstream.schemas.wire.requires import unknown_names

_AT_MOST = 16
"""How many of the newest versions are read; the newest complete one is served."""
_NEWEST = f"{MAX_VERSION}"
"""The last possible version. Later entries are no versions, and must not hide the versions however many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """One version, by the id of its entry. Two are equal if they have the same number and content."""

    version: int
    source: VersionSource | Literal[""] = ""
    """Empty for what no stream announces, and where the entry cannot be read."""
    location: str = ""
    sha256: str = ""
    transport: Transport = "folder"
    base: int | None = None
    probe: Probe | None = field(default=None, compare=False)
    activate: Activate = field(default=Activate(), compare=False)
    problem: str = ""
    """Why it cannot be read, or what it needs that this worker does not know; empty when it may be served."""


BOOTED = Announced(version=0)
"""The boot model, which no stream announces."""


class Announcements:
    """Reads one entry at each look, and the newest few when that entry has changed."""

    def __init__(self, *, redis: Redis, keys: Keys) -> None:
        self.key = keys.versions()
        self._redis = redis
        self._head: Any = None
        self.versions: tuple[Announced, ...] = ()
        """The newest first, as last read. An empty stream changes nothing."""

    @property
    def newest(self) -> int:
        """The newest announced version, whether it can be served or not; 0 if there is none."""
        return self.versions[0].version if self.versions else 0

    async def read(self) -> None:
        """Read the stream. Raises `RedisError`."""
        head: Any = await self._redis.xrevrange(self.key, _NEWEST, count=1)
        if not head or head == self._head:
            return
        entries: Any = await self._redis.xrevrange(self.key, _NEWEST, count=_AT_MOST)
        if entries:
            self._head = entries[:1]
            self.versions = tuple(_announced(entries))


def started_again(announced: Sequence[Announced], served: Announced) -> bool:
    """Whether the stream is another than that of `served`: it ends before it, or has other content under its number."""
    there = [one for one in announced if one.version == served.version]
    return bool(announced) and (announced[0].version < served.version or there not in ([], [served]))


def to_serve(announced: Sequence[Announced], served: Announced, *, adrift: bool) -> list[Announced]:
    """Versions to serve instead of `served`, the best first: newer ones, or if `adrift` any in the stream."""
    return list(takewhile(lambda one: one != served and (adrift or one.version > served.version), announced))


def _announced(entries: Any) -> Iterator[Announced]:
    for entry_id, fields in entries:
        found = EntryId.of(entry_id)
        if found.sequence == 0 and found.milliseconds <= MAX_VERSION:  # nobody can have announced any other
            yield _opened(found.milliseconds, fields.get(PAYLOAD, b""))


def _opened(version: int, payload: bytes) -> Announced:
    try:
        found = decode(payload, PolicyVersion)
    except SchemaError as error:
        return Announced(version=version, problem=f"its announcement cannot be read: {error}")
    if found.version != version:
        return Announced(version=version, problem=f"its announcement is that of version {found.version}")
    names = unknown_names(found.requires)
    problem = f"it requires {names}, which this worker does not know: upgrade the worker" if names else ""
    return Announced(
        version=version,
        source=found.source,
        location=found.location,
        sha256=found.sha256,
        transport=found.transport,
        base=found.base,
        probe=found.probe,
        activate=found.activate,
        problem=problem,
    )
