"""One partition's jobs: how many wait, are taken, are parked, and how old the oldest is. No payload is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from rollstream.schemas import Keys
from rollstream.schemas.entry_id import BEFORE_ALL, LAST_POSSIBLE, EntryId, after
from rollstream.schemas.field_values import count_of, text_of
from rollstream.schemas.hashes.part_fields import ALL_PARTS
from rollstream.schemas.hashes.totals import Totals
from rollstream.schemas.keys import GROUP, totals
from rollstream.schemas.parked import ParkedFor

from ...operations.queue_state import QueueSeen
from ...operations.waiting import ahead_s
from ...policies.parked import Parked, for_sessions
from . import scripts
from .rounds import Part, rows

_TOTALS = tuple(one.name for one in fields(Totals))
_MOST_PARKED = 20
"""How many of the versions that jobs wait for are told apart."""
_REMEMBERED_S = 10.0
"""Then the entry that is read next is looked at again: somebody may have removed it by hand."""
_GroupRow = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionSeen:
    """A partition, and what its totals say."""

    queue: QueueSeen
    open_groups: int
    open_tokens: int
    is_counted: bool
    """Whether its totals and its length could be read; what is open is not known if not."""


class Queue:
    """Remembers which entry of one partition is read next, while no other is delivered."""

    def __init__(self, *, keys: Keys, partition: int) -> None:
        self._jobs = keys.jobs(partition)
        self._dead = keys.dead(partition)
        self._part_bytes = keys.part_bytes(partition)
        self._partition = partition
        self._next: tuple[EntryId, EntryId] | None = None
        """The last that was delivered, and the entry after it."""
        self._looked_at = 0.0
        """When that entry was there."""

    def read(self) -> Part[PartitionSeen]:
        """The partition, in at most six rounds, of which the last three are for parked jobs."""
        now, (entries, groups, letters, sums, nbytes) = yield [
            lambda pipe: pipe.xlen(self._jobs),
            lambda pipe: pipe.xinfo_groups(self._jobs),
            lambda pipe: pipe.xlen(self._dead),
            lambda pipe: pipe.hmget(totals(self._jobs), _TOTALS),
            lambda pipe: pipe.hget(self._part_bytes, ALL_PARTS),
        ]
        told = zip(_TOTALS, rows(sums), strict=False)
        so_far = Totals.of({name.encode(): value for name, value in told if value is not None})
        group = next((one for one in rows(groups) if one["name"] == GROUP.encode()), None)
        waiting = waiting_jobs(group, entries or 0, so_far)
        delivered = EntryId.of(group["last-delivered-id"]) if group else BEFORE_ALL
        oldest = (yield from self._oldest(delivered, now)) if waiting else None
        parked, waiting_for_workers = (yield from self._parked()) if group and group["pending"] else ((), 0)
        queue = QueueSeen(
            partition=self._partition,
            entries=entries or 0,
            waiting=waiting,
            pending=group["pending"] if group else 0,
            oldest_waiting_s=oldest.age_s(now) if oldest else None,
            dead_letters=letters or 0,
            parked=parked,
            for_sessions=waiting_for_workers,
            partials_bytes=count_of(nbytes or b"") or 0,
            ids_ahead_s=ahead_s((str(one).encode() for one in (oldest, delivered) if one), now),
        )
        return PartitionSeen(
            queue=queue,
            open_groups=so_far.open_groups,
            open_tokens=so_far.open_tokens,
            is_counted=entries is not None and sums is not None and all(map(_is_count, sums)),
        )

    def _oldest(self, delivered: EntryId, now: float) -> Part[EntryId | None]:
        """The entry after the last that was delivered. Who may run no script is sent the whole entry."""
        if delivered == LAST_POSSIBLE:
            return None
        is_fresh = 0 <= now - self._looked_at < _REMEMBERED_S
        if self._next is None or self._next[0] != delivered or not is_fresh:
            start = after(delivered)
            _, (found,) = yield [scripts.peek(self._jobs, start)]
            if found is None:
                _, (entries,) = yield [lambda pipe: pipe.xrange(self._jobs, min=start, count=1)]
                found = next(iter(rows(entries)), ())
            self._next = (delivered, EntryId.of(found[0])) if found else None
            self._looked_at = now
        return self._next and self._next[1]

    def _parked(self) -> Part[tuple[tuple[Parked, ...], int]]:
        _, (consumers,) = yield [lambda pipe: pipe.xinfo_consumers(self._jobs, GROUP)]
        held = {
            parked: row
            for row in rows(consumers)
            if row["pending"] and (parked := ParkedFor.of(row["name"].decode("utf-8", "backslashreplace"))) is not None
        }
        names = {parked: held[parked]["name"] for parked in sorted(held)[:_MOST_PARKED]}
        now, pending = yield [partial(_oldest_of, self._jobs, name) for name in names.values()]
        oldest = {
            parked: EntryId.of(found[0]["message_id"]) for parked, found in zip(names, pending, strict=True) if found
        }
        _, entries = yield [scripts.peek(self._jobs, str(entry_id)) for entry_id in oldest.values()]
        found_parked = tuple(
            Parked(
                version=parked.version,
                jobs=held[parked]["pending"],
                oldest_s=entry_id.age_s(now),
                oldest_batch=text_of(found[1]) if found and EntryId.of(found[0]) == entry_id else "",
            )
            for (parked, entry_id), found in zip(oldest.items(), entries, strict=True)
        )
        return found_parked, for_sessions(rows(consumers))


def _is_count(value: bytes | None) -> bool:
    """Whether a total is a number, or not there yet."""
    return value is None or count_of(value) is not None


def _oldest_of(jobs: str, consumer: bytes, pipe: Any) -> object:
    return pipe.xpending_range(jobs, GROUP, "-", "+", 1, consumername=consumer)


def waiting_jobs(group: _GroupRow | None, entries: int, so_far: Totals) -> int:
    """Jobs that no worker has taken, of `entries` in the stream.

    Redis counts them from version 7 on, unless an entry was removed by hand. Then the totals tell: what was removed by
    hand counts as waiting.
    """
    if group is None:
        return entries
    lag, pending = group.get("lag"), int(group["pending"])
    if lag is not None:
        return int(lag)
    open_jobs = so_far.jobs_queued - so_far.jobs_acknowledged - pending
    return min(max(0, open_jobs), max(0, entries - pending))
