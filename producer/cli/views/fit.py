"""Texts and tables that fit a terminal: no line is wider, and no word is broken that would fit on a line.

Every text passes `plain` here, so nothing that a producer or a worker wrote reaches a terminal raw.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from rollstream.schemas.printable import printable

Cell = str | Text
Lines = list[Text]

GAP = 2
"""Blanks between two columns, and before what belongs to the line above."""
_LONGEST = 2_000
"""Most characters of one text: a finding of the doctor may have four errors in it."""
_FEWEST_OF_WORDS = 24
"""A column of sentences that is narrower is hard to read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column, and what becomes of it where there is no room."""

    title: str
    rank: int = 0
    """Columns of the highest rank are left out first, those of rank 0 never."""
    right: bool = False
    least: int | None = None
    """Its cells may be shortened to so many places, names in their middle; None: they are shown whole."""
    keeps_start: bool = False
    """Its cells are shortened at their ends, as sentences are."""
    words: bool = False
    """It holds sentences, which go on in further lines. The last column may be one."""
    said: str = ""
    """How a value is told without a title, such as `{} tokens/s`; default: the title, then the value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Laid:
    """A table that fits: its titles, and the lines of each row."""

    head: Lines
    rows: list[Lines]
    further: int = 0
    """Rows that were not laid out, because no terminal has so many lines."""

    def lines(self, most: int | None = None) -> Lines:
        """All lines; if they are more than `most`, whole rows are left out and the last line counts them."""
        bodies = [line for row in self.rows for line in row]
        if not self.further and (most is None or len(self.head) + len(bodies) <= most):
            return [*self.head, *bodies]
        shown, rows = list(self.head), 0
        while rows < len(self.rows) and (most is None or len(shown) + len(self.rows[rows]) < most):
            shown += self.rows[rows]
            rows += 1
        more = Text(f"and {len(self.rows) - rows + self.further:,} more", style="dim")
        return [*shown, more] if most is None else [*shown[: max(0, most - 1)], more][:most]


def plain(cell: Cell) -> Text:
    """The cell as one line of bounded length that no terminal obeys; a `Text` keeps its style."""
    if isinstance(cell, str):
        return Text(_bounded(printable(cell[:_LONGEST])))
    if cell.plain.isprintable() and len(cell.plain) <= _LONGEST:
        return cell
    return Text(_bounded(printable(cell.plain[:_LONGEST])), style=cell.style)


def _bounded(text: str) -> str:
    return text if len(text) < _LONGEST else f"{text[: _LONGEST - 1]}…"


def shorten(text: Text, width: int) -> Text:
    """At most `width` places: the middle of a longer text becomes `…`, because ends of names tell them apart."""
    if text.cell_len <= width:
        return text
    if width <= 1:
        return Text("…"[:width], style=text.style)
    tail = (width - 1) // 2
    head = set_cell_size(text.plain, width - 1 - tail).rstrip()
    return Text(f"{head}…{_last(text.plain, tail).lstrip()}", style=text.style)


def told_apart(names: Sequence[Text], width: int) -> list[Text]:
    """All shortened in one way, by which different names stay different; in their middle if there is none."""
    start = max(0, _alike({name.plain for name in names}) - width // 3)
    ways: tuple[Callable[[Text], Text], ...] = (
        lambda name: shorten(name, width),
        lambda name: one_line(name, width),
        lambda name: one_line(Text(f"…{name.plain[start:]}", style=name.style), width),
    )
    every = [[way(name) if name.cell_len > width else name for name in names] for way in ways]
    different = len({name.plain for name in names})
    return next((found for found in every if len({name.plain for name in found}) == different), every[0])


def _alike(names: Collection[str]) -> int:
    """How many characters all of them begin with."""
    first, last = min(names, default=""), max(names, default="")
    return next((i for i, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))


def _last(text: str, width: int) -> str:
    """The end of `text` that has at most `width` places."""
    start, places = len(text), 0
    while start and (places := places + cell_len(text[start - 1])) <= width:
        start -= 1
    return text[start:]


@lru_cache(maxsize=1)
def _wrapper() -> Console:
    return Console(width=80, file=None)


def wrapped(cell: Cell, width: int, *, indent: int = 0) -> Lines:
    """The text in lines broken between words, all after the first `indent` places further right."""
    width = max(1, width)
    indent = min(indent, width // 2)
    text = plain(cell)
    first, *rest = _broken(text, width) or [Text()]
    if not rest or not indent:
        return [first, *rest]
    left = Text(text.plain[len(first.plain) :].lstrip(), style=text.style)
    return [first, *(_moved(line, indent) for line in _broken(left, width - indent))]


def _broken(text: Text, width: int) -> Lines:
    lines = list(text.wrap(_wrapper(), width, overflow="fold"))
    for line in lines:
        line.rstrip()
    return lines


def _moved(line: Text, places: int) -> Text:
    return Text.assemble(" " * places, line)


def one_line(cell: Cell, width: int) -> Text:
    """The beginning of a text, on one line; `…` stands for the rest."""
    text = plain(cell)
    if text.cell_len > width:
        text = text.copy()
        text.truncate(max(1, width), overflow="ellipsis")
    return text


def facts(told: Iterable[Cell], width: int, *, indent: int = 0) -> Lines:
    """Short facts one after the other with ` · ` between them, broken only between facts while each fits a line."""
    room, lines = width - indent, list[Text]()
    for text in map(plain, told):
        if lines and lines[-1].cell_len + 3 + text.cell_len <= room:
            lines[-1].append(" · ", style="dim").append_text(text)
        else:
            lines += [line.copy() for line in wrapped(text, room)]
    return [_moved(line, indent) for line in lines]


def table(columns: Sequence[Column], rows: Iterable[Sequence[Cell]], width: int, most: int | None = None) -> Laid:
    """A table with as many columns as fit; if not even those of rank 0 do, each row is a name with facts below it.

    Only the first `most` rows are laid out, the others are counted.
    """
    every = list(rows)
    if not every:
        return Laid(head=[], rows=[])
    cells = [[plain(cell) for cell in row] for row in every[:most]]
    further = len(every) - len(cells)
    natural = [_natural(column, [row[i] for row in cells]) for i, column in enumerate(columns)]
    least = [_least(column, natural[i], [row[i] for row in cells]) for i, column in enumerate(columns)]
    for rank in sorted({column.rank for column in columns}, reverse=True):
        chosen = [i for i, column in enumerate(columns) if column.rank <= rank]
        if sum(least[i] for i in chosen) + GAP * (len(chosen) - 1) <= width:
            few = [columns[i] for i in chosen]
            return replace(_side_by_side(few, [[row[i] for i in chosen] for row in cells], width), further=further)
    names = told_apart([_said(columns[0], row[0]) for row in cells], width)
    stacked = [_stacked(columns, name, row, width) for name, row in zip(names, cells, strict=True)]
    return Laid(head=[], rows=stacked, further=further)


def _natural(column: Column, cells: Sequence[Text]) -> int:
    return max([cell_len(column.title), *(cell.cell_len for cell in cells)])


def _least(column: Column, natural: int, cells: Sequence[Text]) -> int:
    """The fewest places that this column can do with."""
    if column.words:
        return min(natural, max(_FEWEST_OF_WORDS, *map(longest_word, cells)))
    return natural if column.least is None else min(natural, max(column.least, cell_len(column.title)))


def longest_word(cell: Cell) -> int:
    """Its places; with fewer the word would be broken."""
    return max(map(cell_len, plain(cell).plain.split()), default=0)


def _side_by_side(columns: Sequence[Column], rows: Sequence[Sequence[Text]], width: int) -> Laid:
    cells = [[row[i] for row in rows] for i in range(len(columns))]
    natural = [_natural(column, cells[i]) for i, column in enumerate(columns)]
    widths = [_least(column, natural[i], cells[i]) for i, column in enumerate(columns)]
    room = width - sum(widths) - GAP * (len(columns) - 1)
    name = min(natural[0], max(widths[0], width // 3)) - widths[0]
    widths[0] += min(name, room)
    wants = [places - least for places, least in zip(natural, widths, strict=True)]
    more = shares(wants, room - min(name, room))
    widths = [least + places for least, places in zip(widths, more, strict=True)]
    for i, column in enumerate(columns):
        cells[i] = _shortened(column, cells[i], widths[i])
    head = [Text(column.title, style="dim") for column in columns]
    titled = any(column.title for column in columns)
    return Laid(
        head=_row(columns, head, widths) if titled else [],
        rows=[_row(columns, row, widths) for row in zip(*cells, strict=True)],
    )


def shares(wants: Sequence[int], room: int) -> list[int]:
    """What each gets of `room`: all that it wants, or else no less than any other that wants more than it gets."""
    got, left = [0] * len(wants), sorted(range(len(wants)), key=lambda i: wants[i])
    while left:
        i = left[0]
        got[i] = max(0, min(wants[i], room // len(left)))
        room, left = room - got[i], left[1:]
    return got


def _row(columns: Sequence[Column], cells: Sequence[Text], widths: Sequence[int]) -> Lines:
    """One row; what does not fit a column of sentences goes on below."""
    shown = [
        wrapped(cell, places) if column.words else [cell]
        for column, cell, places in zip(columns, cells, widths, strict=True)
    ]
    lines = []
    for number in range(max(map(len, shown))):
        parts = [cell[number] if number < len(cell) else Text() for cell in shown]
        lines.append(_joined(columns, parts, widths))
    return lines


def _joined(columns: Sequence[Column], cells: Sequence[Text], widths: Sequence[int]) -> Text:
    line = Text()
    for number, (column, cell, places) in enumerate(zip(columns, cells, widths, strict=True)):
        blanks = " " * (places - cell.cell_len)
        line.append(" " * GAP if number else "")
        line = Text.assemble(line, *((blanks, cell) if column.right else (cell, blanks)))
    line.rstrip()
    return line


def _stacked(columns: Sequence[Column], name: Text, row: Sequence[Text], width: int) -> Lines:
    """The name on a line of its own, below it what the other cells say, and last the sentences."""
    others = [(column, cell) for column, cell in zip(columns[1:], row[1:], strict=True) if cell.plain not in {"", "-"}]
    told = [_said(column, cell, width - GAP) for column, cell in others if not column.words]
    lines = [name, *facts(told, width, indent=GAP)]
    for _, sentence in (one for one in others if one[0].words):
        lines += [_moved(line, GAP) for line in wrapped(sentence, width - GAP)]
    return lines


def _said(column: Column, cell: Text, width: int | None = None) -> Text:
    """A cell without its title. With a `width` it is on one line of so many places, if it may be shortened."""
    before, _, after = (column.said or f"{column.title} {{}}").partition("{}")
    if width is not None:
        (cell,) = _shortened(column, [cell], max(1, width - cell_len(before) - cell_len(after)))
    return Text.assemble(before, cell, after)


def _shortened(column: Column, cells: list[Text], width: int) -> list[Text]:
    """The cells of a column, if it may be shortened, in so many places."""
    if column.words or column.least is None:
        return cells
    return [one_line(cell, width) for cell in cells] if column.keeps_start else told_apart(cells, width)
