"""The newest batches and those under way, by a few fields of their ledgers. Those that have ended are remembered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Any

from rollstream.schemas import Keys
from rollstream.schemas.hashes.ledger import LedgerCounts, LedgerField

from ..fleet import FleetBatch
from .ages import age_s
from .rounds import Command, Note, Part, rows
from .time_left import Progress

MOST_NEWEST = 100
MOST_UNDER_WAY = 300
"""How many batches are followed until they end, the newest ones."""
_PAGE = 100
_MOST_ENDED = 4096
_REMEMBERED_S = 600.0
"""Then a batch that has ended is read again: it may have expired, and its name may have been used again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ledger:
    groups: int
    done: int
    cancelled: bool
    read_at: float

    @property
    def has_ended(self) -> bool:
        return self.done >= self.groups


class Batches:
    """Remembers batches under way with how fast they go, and those that have ended.

    `read` alone changes it. Beside the newest batches each reading looks at one further page of an index, so that in
    time all batches that are under way are found, however old they are.
    """

    def __init__(self, *, keys: Keys) -> None:
        self._keys = keys
        self._newest = max(16, min(MOST_NEWEST, 4 * MOST_NEWEST // keys.partitions))
        self._page: tuple[int, int] | None = None
        """Partition and first place of the further page that is looked at next; None while there is none."""
        self._under_way: dict[str, float] = {}
        """When it was submitted, by batch."""
        self._progress: dict[str, Progress] = {}
        self._ended: dict[str, _Ledger] = {}

    def read(self, note: Note) -> Part[tuple[tuple[FleetBatch, ...], int]]:
        """The newest batches and those under way, the newest first; and how many batches the indexes have."""
        every = range(self._keys.partitions)
        pages = [(partition, 0) for partition in every] + ([self._page] if self._page else [])
        asked = [*(self._page_of(*page) for page in pages), *(self._count_of(partition) for partition in every)]
        now, replies = yield asked
        counts = [count or 0 for count in replies[len(pages) :]]
        found = dict(self._named(pages, replies))
        self._page = _next_page(self._page, counts, self._newest)
        newest = sorted(found, key=found.__getitem__, reverse=True)[:MOST_NEWEST]
        further = dict(self._named(pages[len(every) :], replies[len(every) : len(pages)]))
        looked_at = {name: found[name] for name in newest} | further | self._under_way
        wanted = [name for name in looked_at if not self._is_known(name, now)]
        now, ledgers = yield [self._ledger_of(name) for name in wanted]
        read = dict(_readable(wanted, ledgers, now, note))
        for name in set(wanted).difference(read):  # expired since
            self._ended.pop(name, None)
        self._remember(read, looked_at, now)
        shown = sorted({*newest, *self._under_way}, key=lambda name: (looked_at[name], name), reverse=True)
        known = {name: ledger for name in shown if (ledger := read.get(name) or self._ended.get(name)) is not None}
        seen = (self._seen(name, ledger, looked_at[name], now) for name, ledger in known.items())
        return tuple(seen), sum(counts)

    def _is_known(self, name: str, now: float) -> bool:
        ended = self._ended.get(name)
        return ended is not None and 0 <= now - ended.read_at < _REMEMBERED_S

    def _remember(self, read: dict[str, _Ledger], looked_at: dict[str, float], now: float) -> None:
        going = sorted((name for name in read if not read[name].has_ended), key=looked_at.__getitem__, reverse=True)
        self._under_way = {name: looked_at[name] for name in going[:MOST_UNDER_WAY]}
        for name in self._under_way:
            self._progress.setdefault(name, Progress(now=now, done=read[name].done)).note(now, read[name].done)
        self._progress = {name: self._progress[name] for name in self._under_way}
        ended = self._ended | {name: ledger for name, ledger in read.items() if ledger.has_ended}
        self._ended = dict(list(ended.items())[-_MOST_ENDED:])

    def _seen(self, name: str, ledger: _Ledger, submitted_at: float, now: float) -> FleetBatch:
        progress = self._progress.get(name)
        left_s = None if progress is None else progress.left_s(now, ledger.done, ledger.groups)
        return FleetBatch(
            batch_id=name,
            submitted_s_ago=age_s(submitted_at, now),
            groups=ledger.groups,
            done=ledger.done,
            cancelled=ledger.cancelled,
            left_s=0.0 if ledger.has_ended else left_s,
        )

    def _named(self, pages: Iterable[tuple[int, int]], replies: Iterable[Any]) -> Iterator[tuple[str, float]]:
        """Batches of these pages by when they were submitted, without names that are none."""
        for (partition, _), members in zip(pages, replies, strict=False):
            for member, score in rows(members):
                name = member[:200].decode("utf-8", "backslashreplace")
                if self._keys.has_batch(partition, name) and isfinite(score):
                    yield name, score

    def _page_of(self, partition: int, start: int) -> Command:
        key, last = self._keys.batches(partition), start + (_PAGE if start else self._newest) - 1
        return lambda pipe: pipe.zrevrange(key, start, last, withscores=True)

    def _count_of(self, partition: int) -> Command:
        key = self._keys.batches(partition)
        return lambda pipe: pipe.zcard(key)

    def _ledger_of(self, name: str) -> Command:
        key = self._keys.ledger(name)
        return lambda pipe: pipe.hmget(key, [LedgerField.DONE, LedgerField.GROUPS, LedgerField.CANCELLED])


def _next_page(page: tuple[int, int] | None, counts: list[int], newest: int) -> tuple[int, int] | None:
    """The page after this one, or else the first one of the next partition that has more than `newest` batches."""
    partition, start = page or (-1, 0)
    if page and start + _PAGE < counts[partition]:
        return partition, start + _PAGE
    order = [(partition + step) % len(counts) for step in range(1, len(counts) + 1)]
    return next(((other, newest) for other in order if counts[other] > newest), None)


def _readable(names: Iterable[str], ledgers: Iterable[Any], now: float, note: Note) -> Iterator[tuple[str, _Ledger]]:
    """Without batches that have expired, and those whose ledger holds what no script of ours wrote."""
    for name, values in zip(names, ledgers, strict=True):
        if values is None:
            continue
        try:
            counts = LedgerCounts.of(values[0], values[1])
        except ValueError as error:
            note(f"batch {name} is left out: {error}")
            continue
        if counts.groups is not None:
            cancelled = values[2] is not None
            yield name, _Ledger(groups=counts.groups, done=counts.done, cancelled=cancelled, read_at=now)
