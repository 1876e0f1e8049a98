"""Whether lines fit a terminal: none is too wide, and no word of a text is broken where it would fit."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

from rich.cells import cell_len

from rollstream.producer.cli import views
from rollstream.producer.cli.views.fit import GAP, Column, Lines

WIDTHS = (40, 60, 80, 120, 200)
UNBROKEN = 1_000
_DRAWN = set("█▉▊▋▌▍▎▏░▁▂▃▄▅▆▇")
_OF_TIMES = {"s", "min", "h", "ahead", "behind"}
LONG = "gpu-node-with-a-long-name-17.rack-4.cluster.example.internal-4711-a3f9c1"


def shown(lines: Lines) -> str:
    return "\n".join(line.plain for line in lines)


def check(lines: Sequence[str], width: int, reference: Iterable[str]) -> None:
    """`reference`: the same on a terminal where everything fits."""
    for line in lines:
        assert cell_len(line) <= width, f"{cell_len(line)} places in {width}: {line!r}"
        assert line.isprintable()
    lines = [line for line in lines if not re.fullmatch(r"and [\d,]+ more( lines)?", line)]
    whole = words(reference) | labels()
    longer = [word for word in whole if cell_len(word) > width - 8 * GAP]
    broken = {
        word
        for word in words(lines) - whole
        if "…" not in word and not set(word) <= _DRAWN and not any(word in one for one in longer)
    }
    assert not broken, f"at {width} places: {sorted(broken)}\n" + "\n".join(lines)


def words(lines: Iterable[str]) -> set[str]:
    """Numbers and fractions may be times, which differ between two runs, and count as one word."""
    found = (word for line in lines for word in line.split())
    return {re.sub(r"\d+\.\d+|^[\d,]+$", "#", word) for word in found}


@cache
def labels() -> set[str]:
    """What columns are called, above them and beside their values."""
    return {word for column in _columns() for word in f"{column.title} {column.said}".split()} | {"·", *_OF_TIMES}


def _columns() -> Iterator[Column]:
    for module in pkgutil.iter_modules(views.__path__, f"{views.__name__}."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, tuple):
                yield from (one for one in value if isinstance(one, Column))
