"""The newest dead letters of each partition, read once and without their payloads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rollstream.schemas import DeadLetter, Keys, SchemaError, decode
from rollstream.schemas.entry_id import EntryId
from rollstream.schemas.errors import cut
from rollstream.schemas.field_values import text_of
from rollstream.schemas.printable import printable
from rollstream.schemas.wire.entry_fields import named_batch
from rollstream.transport.redis.scripts import Call

from ..fleet import FleetLetter
from . import scripts
from .rounds import Part, rows

MOST_LETTERS = 20
_CALL_BYTES = 8 * 2**20
"""Redis copies the payloads of what it looks at: after so many bytes it stops, and the next reading goes on."""
LONGEST_LETTER = 64 * 2**10
"""Bytes of a letter: no worker writes a longer one."""


class Letters:
    """Remembers the newest letters of one partition, the newest first."""

    def __init__(self, *, keys: Keys, partition: int) -> None:
        self._key = keys.dead(partition)
        self._partition = partition
        self._known: list[tuple[EntryId, DeadLetter | SchemaError]] = []
        self._length = 0

    def read(self) -> Part[tuple[int, tuple[FleetLetter, ...]]]:
        """How many letters there are, and the newest of them."""
        newest = f"({self._known[0][0]}" if self._known else "-"
        _, (length, new) = yield [lambda pipe: pipe.xlen(self._key), self._call("+", newest)]
        added = list(_letters(rows(new)))
        length = length or 0
        if self._known and self._length + len(added) != length:  # some were dropped, or more came than were read
            self._known, added = [], []
            _, (again,) = yield [self._call("+", "-")]
            added = list(_letters(rows(again)))
        known = [*added, *self._known]
        if known and len(known) < min(MOST_LETTERS, length):
            _, (older,) = yield [self._call(f"({known[-1][0]}", "-")]
            known += _letters(rows(older))
        self._known, self._length = known[:MOST_LETTERS], length
        now, _ = yield []
        return length, tuple(self._seen(entry_id, letter, now) for entry_id, letter in self._known)

    def _call(self, newest: str, oldest: str) -> Call:
        return scripts.letters(
            self._key, newest=newest, oldest=oldest, count=MOST_LETTERS, nbytes=_CALL_BYTES, longest=LONGEST_LETTER
        )

    def _seen(self, entry_id: EntryId, letter: DeadLetter | SchemaError, now: float) -> FleetLetter:
        if isinstance(letter, SchemaError):
            batch_id, error, deliveries, buried_s_ago = "", f"unreadable: {letter}", 0, entry_id.age_s(now)
        else:
            batch_id, error, deliveries = named_batch(dict(letter.fields)), letter.error, letter.deliveries
            buried_s_ago = entry_id.age_s(now)
        return FleetLetter(
            partition=self._partition,
            letter_id=str(entry_id),
            batch_id=text_of(batch_id.encode()),
            error=cut(printable(error)),
            buried_s_ago=buried_s_ago,
            deliveries=deliveries,
        )


def newest_of(letters: Iterable[FleetLetter]) -> tuple[FleetLetter, ...]:
    """The newest of all partitions, the newest first."""
    return tuple(sorted(letters, key=lambda letter: letter.buried_s_ago)[:MOST_LETTERS])


def _letters(found: Iterable[Any]) -> Iterator[tuple[EntryId, DeadLetter | SchemaError]]:
    for entry_id, data, _ in found:
        try:
            yield EntryId.of(entry_id), decode(data, DeadLetter)
        except SchemaError as error:
            yield EntryId.of(entry_id), error
