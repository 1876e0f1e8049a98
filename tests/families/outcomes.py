"""How a cell of the table ended, and the table. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Ended = Literal["right", "refused", "wrong", "died"]

FEATURES = ("sampled", "scores", "LoRA", "beams", "EOS, chat", "swap")


@dataclass(frozen=True, slots=True)
class Cell:
    """What one feature did with one family."""

    ended: Ended
    off: float = math.nan
    """The largest difference from transformers, in nats; NaN where none was measured."""
    said: str = ""
    """The worker's own words where it refused, or what was wrong."""
    dtype: str = ""

    @property
    def is_fine(self) -> bool:
        """Whether it was right, or refused by name."""
        return self.ended in ("right", "refused")

    def shown(self, note: int | None) -> str:
        """A few characters for the table; `note` is the number of the line below it with the reason."""
        if self.ended == "right":
            off = "yes" if math.isnan(self.off) else f"{self.off:.0e}"
            return off if self.dtype in ("", "float32") else f"{off} ({self.dtype})"
        return f"{self.ended if self.ended == 'refused' else f'**{self.ended}**'} ({note})"


Row = Mapping[str, Cell]
"""Cells by feature. Where a family did not start, each feature has the same cell."""


def table(rows: Mapping[str, Row], features: Sequence[str] = FEATURES) -> str:
    """The table in Markdown, and below it a numbered line for each reason."""
    notes: dict[str, int] = {}
    lines = [f"| family | {' | '.join(features)} |", f"| --- |{' --- |' * len(features)}"]
    for family, row in rows.items():
        cells = (row[feature] for feature in features if feature in row)
        shown = [cell.shown(_number(notes, cell.said) if cell.ended != "right" else None) for cell in cells]
        lines.append(f"| {family} | {' | '.join(shown)} |")
    return "\n".join([*lines, "", *(f"{number}. {said}" for said, number in notes.items())]) + "\n"


def as_json(rows: Mapping[str, Row]) -> dict[str, Any]:
    """For `--json`: no NaN, which JSON does not have."""
    return {
        family: {
            feature: {
                "ended": cell.ended,
                "off": None if math.isnan(cell.off) else cell.off,
                "said": cell.said,
                "dtype": cell.dtype,
            }
            for feature, cell in row.items()
        }
        for family, row in rows.items()
    }


def from_json(told: Mapping[str, Any]) -> dict[str, dict[str, Cell]]:
    """What `as_json` was given."""
    return {
        family: {
            feature: Cell(**{**cell, "off": math.nan if cell["off"] is None else cell["off"]})
            for feature, cell in row.items()
        }
        for family, row in told.items()
    }


def _number(notes: dict[str, int], said: str) -> int:
    return notes.setdefault(said, len(notes) + 1)
