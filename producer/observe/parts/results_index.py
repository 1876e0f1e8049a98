"""Where in its stream the answer of each group is, so that a page of groups reads their answers and no others."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from redis.asyncio import Redis

from rollstream.schemas.entry_id import BEFORE_ALL, EntryId
from rollstream.schemas.wire.heads import group_of_head

from . import scripts

_MOST_CALLS = 32
"""Calls of one look, each of so many entries or bytes as `scripts.results` says: 256 MiB that Redis copies."""


@dataclass(slots=True, kw_only=True)
class Places:
    """The answers of one batch that were found so far. `find` alone changes it, and only adds."""

    by_group: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    """Entry id and bytes."""
    last: EntryId = BEFORE_ALL
    """The last entry that was looked at."""

    async def find(self, redis: Redis, stream: str, wanted: Collection[int]) -> bool:
        """Look on in the stream until all of `wanted` are found. False: it may have more, after a limit of calls.

        Raises `RedisError`.
        """
        for _ in range(_MOST_CALLS):
            if all(group in self.by_group for group in wanted):
                return True
            rows = await scripts.results(redis, stream, after=self.last)
            if not rows:
                return True
            for entry_id, nbytes, head in rows:
                self.last = EntryId.of(entry_id)
                if (group := group_of_head(head)) is not None:
                    self.by_group.setdefault(group, (entry_id, nbytes))
        return False


class ResultsIndex:
    """The places of the batches that were looked at last: eight, with 400,000 answers together."""

    def __init__(self, *, most_batches: int = 8, most_groups: int = 400_000) -> None:
        self._most_batches = most_batches
        self._most_groups = most_groups
        self._batches: dict[str, Places] = {}
        """The last one is the one that was asked for last."""

    def of(self, batch_id: str) -> Places:
        """The places of this batch; others may be forgotten."""
        places = self._batches.pop(batch_id, None) or Places()
        while self._batches and (len(self._batches) >= self._most_batches or self._count() > self._most_groups):
            del self._batches[next(iter(self._batches))]
        self._batches[batch_id] = places
        return places

    def forget(self, batch_id: str) -> None:
        """What was found is there no more: the batch has expired, or is another of this name."""
        self._batches.pop(batch_id, None)

    def _count(self) -> int:
        return sum(len(places.by_group) for places in self._batches.values())
