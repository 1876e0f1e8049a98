"""Any array of ids becomes rows whose scores go where their columns are; what cannot be scored is named by place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from rollstream import Answer, ArgumentError, GenerationConfig, PromptsError
from rollstream.producer.rollouts.assemble import assemble
from rollstream.producer.scores.rows import ScoreRows
from tests.support.answers import batch_of, error_of, result_of

LEFT = np.array([[0, 0, 5, 6, 7], [1, 2, 3, 4, 5]])
LEFT_MASK = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])


def placed(rows: ScoreRows) -> list[list[int]]:
    """The ids in the columns where their scores go; -1 where none does."""
    grid = np.full((len(rows.ids), rows.width), -1)
    for row, (ids, first, offset) in enumerate(zip(rows.ids, rows.firsts, rows.offsets, strict=True)):
        grid[row, offset : offset + len(ids) - first] = ids[first:]
    return grid.tolist()


def test_without_first_every_token_but_the_first_of_each_row_is_scored() -> None:
    assert placed(ScoreRows.of(LEFT, LEFT_MASK, None)) == [[-1, -1, 6, 7], [2, 3, 4, 5]]
    assert placed(ScoreRows.of([[1, 2], [3, 4, 5, 6]], None, None)) == [[2, -1, -1], [4, 5, 6]]


@pytest.mark.parametrize("first", [3, np.int64(3), torch.tensor(3)])
def test_a_column_of_the_array_is_column_0_of_the_scores(first: Any) -> None:
    rows = ScoreRows.of(torch.from_numpy(LEFT), torch.from_numpy(LEFT_MASK), first)
    assert placed(rows) == [[6, 7], [4, 5]]
    assert rows.ids[0].tolist() == [5, 6, 7]


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_each_row_may_begin_at_a_column_of_its_own(kind: Callable[[list[int]], Any]) -> None:
    assert placed(ScoreRows.of(LEFT, LEFT_MASK, kind([4, 1]))) == [[7, -1, -1, -1], [2, 3, 4, 5]]


def test_a_prompt_may_have_holes() -> None:
    mask = np.array([[1, 0, 1, 1, 0], [1, 1, 0, 1, 1]])
    rows = ScoreRows.of(np.array([[1, 9, 2, 3, 9], [4, 5, 9, 6, 7]]), mask, 3)
    assert [ids.tolist() for ids in rows.ids] == [[1, 2, 3], [4, 5, 6, 7]]
    assert placed(rows) == [[3, -1], [6, 7]]


def test_a_row_of_zeros_in_the_mask_is_sent_empty() -> None:
    rows = ScoreRows.of(LEFT, np.array([[0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]), 2)
    assert (rows.lengths.tolist(), rows.firsts.tolist(), rows.columns.tolist()) == ([0, 5], [0, 2], [0, 3])


@pytest.mark.parametrize(
    ("ids", "mask", "first", "words", "row", "column"),
    [
        ([[1, 2], [3]], None, None, "input_ids, row 1: one token, in column 0: nothing comes before", 1, None),
        ([[1, 2], [3, 4]], None, 2, "first, row 0, column 2: is beyond the row, whose last token is in column 1", 0, 2),
        ([[1, 2, 3], [3, 4, 5]], [[1, 1, 1], [0, 1, 1]], 1, "row 1, column 1: nothing comes before the row's", 1, 1),
        ([[1, 2]], None, 0, "first, row 0, column 0: nothing comes before", 0, 0),
        ([[1, 2]], None, -1, "column -1: columns count from 0", 0, None),
        ([[1, 2]], None, np.array([2**64 - 1], np.uint64), "column 18446744073709551615: columns count", 0, None),
        ([[1, 2, 3, 4]], [[1, 1, 0, 1]], 1, "attention_mask, row 0, column 2: a hole among the tokens", 0, 2),
        ([[1, 2, 3, 4]], [[1, 1, 0, 1]], 2, "first, row 0, column 2: the mask is 0 there", 0, 2),
        ([[1, 2, -4]], None, None, "input_ids, row 0, column 2: id -4", 0, 2),
        ([[1, 2]], [[1]], None, "attention_mask, row 0: 1 columns, but input_ids has 2", 0, None),
        ([[1, 2]], None, [1, 1], "first: 2 columns, but input_ids has 1 rows", None, None),
    ],
)
def test_what_cannot_be_scored_is_named_by_row_and_column(
    ids: Any, mask: Any, first: Any, words: str, row: int | None, column: int | None
) -> None:
    with pytest.raises(PromptsError, match=words) as raised:
        ScoreRows.of(ids, mask, first)
    assert (raised.value.row, raised.value.column) == (row, column)


@pytest.mark.parametrize("first", [1.5, "1", [[1]], True, [1.0], [[1], [1, 2]]])
def test_first_is_a_column_or_columns(first: Any) -> None:
    with pytest.raises(ArgumentError, match="give a column of input_ids"):
        ScoreRows.of([[1, 2]], None, first)


def test_rollouts_are_scored_from_their_responses_on_and_failed_ones_not_at_all() -> None:
    batch = batch_of([[1, 2], [3], [4]], GenerationConfig(max_new_tokens=4, num_return_sequences=2))
    answers: list[Answer] = [
        result_of(0, [1, 2], [[5], [6, 7]]),
        error_of(1, [3]),
        result_of(2, [4], [[8, 9, 10], [11]]),
    ]
    rows = ScoreRows.of_rollouts(assemble(batch, dict(enumerate(answers))))
    assert [ids.tolist() for ids in rows.ids] == [[1, 2, 5], [1, 2, 6, 7], [], [], [4, 8, 9, 10], [4, 11]]
    assert placed(rows) == [[5, -1, -1], [6, 7, -1], [-1] * 3, [-1] * 3, [8, 9, 10], [11, -1, -1]]
