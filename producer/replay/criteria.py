"""How to select jobs for a replay: by batch, entry, time or dead letter; and how people write times."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

_AGO = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhd])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@dataclass(frozen=True, slots=True, kw_only=True)
class ByBatch:
    """All jobs of a batch, as its ledger lists them."""

    batch_id: str
    partial: bool = False
    """Whether it is all right if some of the jobs are gone."""

    def __str__(self) -> str:
        return f"batch {self.batch_id!r}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ByEntry:
    """The job of one entry; `partition` is needed only if several partitions have an entry with that id."""

    entry_id: str
    partition: int | None = None

    def __str__(self) -> str:
        return f"entry {self.name}"

    @property
    def name(self) -> str:
        """The value that `--job` takes."""
        return self.entry_id if self.partition is None else f"{self.partition}/{self.entry_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ByTime:
    """Jobs queued between two moments, both included; Unix milliseconds by Redis' clock."""

    since_ms: int
    until_ms: int

    def __str__(self) -> str:
        return "that time"


@dataclass(frozen=True, slots=True, kw_only=True)
class ByLetter:
    """Dead letters with `text` in their error, batch id, worker or entry id; an empty text selects all."""

    text: str = ""
    until_ms: int | None = None
    """Only letters written up to this millisecond by Redis' clock; None: at any time."""

    def __str__(self) -> str:
        return f"dead letters with {self.text!r}" if self.text else "dead letters"


Selector: TypeAlias = ByBatch | ByEntry | ByTime | ByLetter


def read_moment(text: str, now_ms: int) -> int:
    """Unix milliseconds of an ISO 8601 time (local without a zone) or of an age: `90s`, `30m`, `2h`, `1d`.

    Raises `ValueError`, whose text says what is understood.
    """
    ago = _AGO.fullmatch(text)
    if ago is not None:
        return max(0, now_ms - round(float(ago[1]) * _SECONDS[ago[2]] * 1000))
    try:
        return max(0, round(datetime.fromisoformat(text).astimezone().timestamp() * 1000))
    except (ValueError, OverflowError, OSError):
        raise ValueError(
            "write a time such as 2026-11-22T18:30 or 2026-11-22T18:30Z, or an age: 90s, 30m, 2h, 1d"
        ) from None


def written_moment(milliseconds: int) -> str:
    """A text that `read_moment` reads as the same millisecond on any machine."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")


def as_options(selector: Selector) -> list[str]:
    """The options of `rollstream replay` that select the same jobs at any later time."""
    if isinstance(selector, ByBatch):
        return ["--batch", selector.batch_id, *(["--partial"] if selector.partial else [])]
    if isinstance(selector, ByEntry):
        return ["--job", selector.name]
    if isinstance(selector, ByTime):
        return ["--since", written_moment(selector.since_ms), "--until", written_moment(selector.until_ms)]
    until = [] if selector.until_ms is None else ["--until", written_moment(selector.until_ms)]
    return ["--dead", *([selector.text] if selector.text else []), *until]
