"""Small charts of block characters, and numbers as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.text import Text

from .fit import Lines

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_HEIGHTS = "▁▂▃▄▅▆▇█"
_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_TIMES = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))
_ALMOST = 0.9995
"""What is rounded up to a unit is written in it."""
_WHOLE = 9_999.5
"""Numbers below it are written in full."""


def amount(number: float | None) -> str:
    """A count in at most six places: `950`, `9,871`, `12.3k`, `4.57M`; `-` if it is not known."""
    if number is None:
        return "-"
    if abs(number) < _WHOLE:
        return f"{number:,.0f}"
    size, unit = next(one for one in _UNITS if abs(number) >= _ALMOST * one[0])
    value = number / size
    if abs(value) >= 1000:
        return f"{number:.1e}"
    return f"{value:.{2 if abs(value) < 10 * _ALMOST else 1 if abs(value) < 100 * _ALMOST else 0}f}{unit}"


def about(seconds: float) -> str:
    """An estimate, with no more digits than it deserves: `45 s`, `3 min`, `2 h`."""
    if seconds < 1:
        return "1 s"
    size, unit = next((one for one in _TIMES if seconds >= 1.5 * one[0]), _TIMES[-1])
    return f"{seconds / size:,.0f} {unit}"


def percent(part: float, whole: float) -> str:
    """`part` of `whole`; 100 % only if nothing is missing, 0 % only if there is nothing."""
    if whole <= 0:
        return "-"
    share = 100 * part / whole
    if 0 < share < 1:
        return "<1 %"
    return f"{min(99, round(share)) if part < whole else 100} %"


def bar(part: float, whole: float, places: int, style: str = "green") -> Text:
    """A bar of `places` that is filled as far as `part` is of `whole`, to an eighth of a place."""
    share = min(1.0, max(0.0, part / whole)) if whole > 0 else 0.0
    eighths = int(share * places * 8)
    full, rest = divmod(eighths, 8)
    filled = "█" * full + (_EIGHTHS[rest] if rest else "")
    return Text.assemble((filled, style), ("░" * (places - len(filled)), "dim"))


def sparkline(values: Sequence[float], places: int) -> str:
    """Values of equal times as heights, the newest at the right; several share a place if they are more.

    A place is blank if all of its values are 0.
    """
    if not values or places < 1:
        return ""
    each = -(-len(values) // places)
    parts = [values[max(0, end - each) : end] for end in range(len(values), 0, -each)][::-1]
    means = [sum(part) / len(part) for part in parts]
    top = max(means)
    if top <= 0:
        return " " * len(means)
    return "".join(_HEIGHTS[min(7, int(8 * mean / top))] if mean > 0 else " " for mean in means)


def histogram(counts: Mapping[str, int], width: int) -> Lines:
    """A line for each name: the name, a bar as long as its share, and the share; nothing if all are 0."""
    total = sum(counts.values())
    if total <= 0:
        return []
    names = max(map(len, counts))
    numbers = [f"{percent(count, total):>5}  {amount(count)}" for count in counts.values()]
    places = max(4, min(30, width - names - 2 - max(map(len, numbers)) - 2))
    return [
        Text.assemble(f"{name:>{names}}  ", bar(count, total, places, "cyan"), f" {number}")
        for (name, count), number in zip(counts.items(), numbers, strict=True)
    ]
