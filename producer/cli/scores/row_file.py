"""Rows to score from JSON lines; the error for a bad line names its file and number."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ...errors import PromptFileError
from ..jsonl import ids_of, objects, read_file

_SHAPE = 'a row is {"input_ids": [1, 2, 3], "first": 1}, where "first" may be left out'


class Row(NamedTuple):
    """Ids, and the position of the first that is scored."""

    ids: list[int]
    first: int


def read_row_file(file: Path) -> list[Row]:
    """The rows of a file, `-` for stdin. Raises `PromptFileError`."""
    return read_file(file, read_rows)


def read_rows(lines: Iterable[bytes], source: str) -> list[Row]:
    """One row a line of UTF-8; empty lines are skipped. Raises `PromptFileError`, which names file and line."""
    rows = [_row(row, source, number) for number, row in objects(lines, source, _SHAPE)]
    if not rows:
        raise PromptFileError(source, None, f"no rows: {_SHAPE}")
    return rows


def _row(row: dict[str, Any], source: str, number: int) -> Row:
    if "input_ids" not in row or set(row) - {"input_ids", "first"}:
        raise PromptFileError(source, number, _SHAPE)
    ids, first = ids_of("input_ids", row, source, number), row.get("first", 1)
    if len(ids) < 2:
        raise PromptFileError(source, number, f'"input_ids" has {len(ids)} ids: the first one cannot be scored')
    if type(first) is not int or not 1 <= first < len(ids):
        raise PromptFileError(source, number, f'"first" must be a position from 1 to {len(ids) - 1}, of {len(ids)} ids')
    return Row(ids, first)
