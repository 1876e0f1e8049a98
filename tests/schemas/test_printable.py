"""An error of a library is told by its first line, and never by one that stops before what it announces."""

from __future__ import annotations

import pytest

from rollstream.schemas.printable import first_line


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("CUDA error: out of memory\nthe stack", "CUDA error: out of memory"),
        ("none of these can be read: \n(1) a file\n(2) a folder", "none of these can be read: (1) a file"),
        ("\n  begins below\nthe stack", "begins below"),
        ("announces:\n", "announces:"),
        ("a long one", "a lon..."),
        ("", ""),
    ],
)
def test_the_first_line_says_something_and_shows_where_it_was_cut(text: str, told: str) -> None:
    assert first_line(RuntimeError(text), most=5 if told.endswith("...") else 100) == told
