"""Commands that write answers one by one say in one line what was cut, and nothing where nothing was."""

from __future__ import annotations

import pytest

from rollstream.producer.batches.read_answers import AnyAnswer
from rollstream.producer.cli.views.what_was_cut import WhatWasCut
from rollstream.schemas import ErrorCode, GroupError
from tests.support.answers import error_of, result_of


def cut(group: int) -> GroupError:
    return error_of(group).model_copy(update={"code": ErrorCode.NOT_NEEDED.value})


@pytest.mark.parametrize(
    ("answers", "line"),
    [
        ([], ""),
        ([result_of(0, [1], [[5]]), error_of(1)], ""),
        ([cut(0)], "cut 1 group"),
        ([cut(0), error_of(1), cut(2)], "cut 2 groups"),
        (
            [result_of(0, [1], [[5, 6]]), cut(1)],
            "kept 1 of 2 tokens, 2.0 on average and 2 in the median; cut 1 group of unknown lengths",
        ),
    ],
    ids=["no answer", "nothing cut", "no completions, as of scores", "beside an error", "some kept"],
)
def test_one_line_says_what_was_cut(answers: list[AnyAnswer], line: str) -> None:
    seen = WhatWasCut()
    for answer in answers:
        seen.add(answer)

    assert str(seen) == line
