"""Commands that write answers one by one say in one line how many groups failed and why the first one did."""

from __future__ import annotations

import pytest

from rollstream.producer.batches.read_answers import AnyAnswer
from rollstream.producer.cli.views.what_failed import WhatFailed
from rollstream.schemas import GroupError
from tests.support.answers import error_of, result_of

FIRST = "the first: too_long: prompt: too long by far"


def error(group: int, code: str) -> GroupError:
    return error_of(group).model_copy(update={"code": code, "message": f"message of {code}"})


@pytest.mark.parametrize(
    ("answers", "line"),
    [
        ([], ""),
        ([result_of(0, [1], [[5]]), error(1, "not_needed")], ""),
        ([error_of(0), result_of(1, [1], [[5]])], f"1 of 9 groups failed, {FIRST}"),
        (
            [error_of(0), error(1, "cancelled"), error(2, "cancelled")],
            f"3 of 9 groups failed (2 cancelled, 1 too_long), {FIRST}",
        ),
        (
            [error_of(0), error(1, "a"), error(2, "b"), error(3, "c")],
            f"4 of 9 groups failed (1 too_long, 1 a, 1 b, ...), {FIRST}",
        ),
    ],
    ids=["no answer", "good or cut", "one", "two codes", "more codes than are named"],
)
def test_one_line_counts_errors_and_has_the_first_one(answers: list[AnyAnswer], line: str) -> None:
    seen = WhatFailed(num_groups=9)
    for answer in answers:
        seen.add(answer)

    assert (str(seen), bool(seen)) == (line, line != "")
