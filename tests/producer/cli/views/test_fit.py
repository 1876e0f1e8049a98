"""Tables choose their columns by the width, names are shortened in their middle, and sentences break between words."""

from __future__ import annotations

import pytest
from rich.text import Text

from rollstream.producer.cli.views.fit import (
    Column,
    facts,
    one_line,
    plain,
    shares,
    shorten,
    table,
    told_apart,
    wrapped,
)
from tests.support.watching.fitting import shown

NAME = Column(title="name", least=8, said="{}")
COUNT = Column(title="count", right=True, said="{} of them")
NOTE = Column(title="note", rank=1, said="noted {}")
ROWS = [["gpu-node-17-a3f9", "12", "late"], ["w", "1,234", "-"]]


@pytest.mark.parametrize(
    ("name", "width", "short"),
    [
        ("gpu-7", 5, "gpu-7"),
        ("gpu-node-17-a3f9", 9, "gpu-…a3f9"),
        ("gpu-node-17-a3f9", 1, "…"),
        ("gpu-node-17-a3f9", 2, "g…"),
        ("漢字漢字漢字", 6, "漢…字"),
        ("漢字漢字漢字", 7, "漢…字"),
    ],
)
def test_the_middle_of_a_long_name_is_left_out(name: str, width: int, short: str) -> None:
    found = shorten(Text(name), width)
    assert found.plain == short
    assert found.cell_len <= width


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["step-1", "run-17.step-4.replay-a"], ["step-1", "run-17…lay-a"]),
        (["run-name-17.replay-a", "run-name-18.replay-a"], ["run-name-17…", "run-name-18…"]),
        (["a-very-long-run.step-4.replay-a", "a-very-long-run.step-5.replay-a"], ["…tep-4.repl…", "…tep-5.repl…"]),
        (["gpu-node-17-a3f9c1"] * 2, ["gpu-no…3f9c1"] * 2),
        ([], []),
    ],
)
def test_names_stay_different_where_that_can_be(names: list[str], short: list[str]) -> None:
    found = told_apart([Text(name) for name in names], 12)
    assert [name.plain for name in found] == short


def test_a_text_that_a_terminal_would_obey_becomes_escapes_and_keeps_its_style() -> None:
    assert plain("[red]\x1b[2J\u202e\x00\n").plain == "[red]\\x1b[2J\\u202e\\x00\\n"
    styled = plain(Text("a\x1b[2J", style="red"))
    assert (styled.plain, styled.style) == ("a\\x1b[2J", "red")


@pytest.mark.parametrize("text", ["x" * 100_000, "\x1b" * 100_000, Text("x" * 100_000)])
def test_a_huge_text_is_cut(text: str | Text) -> None:
    assert len(plain(text).plain) == 2000
    assert plain(text).plain.endswith("…")


def test_a_sentence_breaks_between_words_and_a_longer_word_at_the_edge() -> None:
    assert shown(wrapped("one two three", 8)) == "one two\nthree"
    assert shown(wrapped("one two three four", 8, indent=2)) == "one two\n  three\n  four"
    assert shown(wrapped("abcdefghij", 4)) == "abcd\nefgh\nij"
    assert shown(wrapped("", 4)) == ""


def test_one_line_of_a_sentence_keeps_its_start() -> None:
    assert one_line("given up after 3 deliveries", 9).plain == "given up…"
    assert one_line("short", 9).plain == "short"


def test_facts_break_between_facts() -> None:
    assert shown(facts(["12 waiting", "3 running", "1 parked"], 25)) == "12 waiting · 3 running\n1 parked"
    assert shown(facts(["12 waiting", "3 running"], 12, indent=2)) == "  12 waiting\n  3 running"


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (
            60,
            """\
name              count  note
gpu-node-17-a3f9     12  late
w                 1,234  -""",
        ),
        (
            24,
            """\
name         count  note
gpu-n…-a3f9     12  late
w            1,234  -""",
        ),
        (
            20,
            """\
name           count
gpu-no…7-a3f9     12
w              1,234""",
        ),
        (
            14,
            """\
gpu-nod…7-a3f9
  12 of them
  noted late
w
  1,234 of
  them""",
        ),
    ],
)
def test_a_table_shortens_names_then_drops_columns_then_stacks(width: int, expected: str) -> None:
    laid = table([NAME, COUNT, NOTE], ROWS, width)
    lines = [line.rstrip() for line in shown(laid.lines()).splitlines()]
    assert lines == expected.splitlines()
    assert all(len(line) <= width for line in lines)


def test_the_last_column_goes_on_below_itself() -> None:
    columns = [NAME, Column(title="why", words=True)]
    laid = table(columns, [["w", "it cannot reach the Redis of its policy"]], 32)
    assert shown(laid.lines()) == "name  why\nw     it cannot reach the Redis\n      of its policy"


def test_what_exceeds_the_height_is_counted() -> None:
    laid = table([NAME], [[f"w{i}"] for i in range(9)], 20)
    assert shown(laid.lines(4)) == "name\nw0\nw1\nand 7 more"
    assert shown(laid.lines(10)).endswith("w8")
    assert shown(laid.lines(1)) == "and 9 more"
    assert laid.lines(0) == []


def test_rows_beyond_the_most_are_counted_without_being_laid_out() -> None:
    laid = table([NAME], [[f"w{i}"] for i in range(1009)], 20, most=3)
    assert len(laid.rows) == 3
    assert shown(laid.lines()) == "name\nw0\nw1\nw2\nand 1,006 more"
    assert shown(laid.lines(3)) == "name\nw0\nand 1,008 more"


def test_a_table_without_rows_has_no_lines() -> None:
    assert table([NAME], [], 20).lines() == []


@pytest.mark.parametrize(
    ("wants", "room", "got"),
    [([3, 3], 9, [3, 3]), ([9, 1, 9], 11, [5, 1, 5]), ([5, 5], 0, [0, 0]), ([], 4, []), ([4], -1, [0])],
)
def test_who_wants_little_gets_it_and_the_others_share(wants: list[int], room: int, got: list[int]) -> None:
    assert shares(wants, room) == got
