"""Ids where the mask is 1, for every type of input and mask; what is no prompt is named by row and column."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rollstream import PromptsError
from rollstream.producer.batches.prompts import Prompts

IDS = [[7, 8, 9, 0], [1, 2, 3, 4]]
MASK = [[1, 0, 1, 0], [0, 1, 1, 1]]
KEPT = [[7, 9], [2, 3, 4]]


def kept(input_ids: Any, attention_mask: Any = None) -> list[list[int]]:
    return [row.tolist() for row in Prompts.of(input_ids, attention_mask).ids]


@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.int32, torch.int64, torch.float32, torch.float16])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_torch_tensors_of_any_integer_dtype(dtype: torch.dtype, mask_dtype: torch.dtype) -> None:
    assert kept(torch.tensor(IDS, dtype=dtype), torch.tensor(MASK, dtype=mask_dtype)) == KEPT


@pytest.mark.parametrize("mask_dtype", [np.bool_, np.int8, np.float64])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint64])
def test_numpy_arrays_of_any_integer_dtype(dtype: type[Any], mask_dtype: type[Any]) -> None:
    assert kept(np.array(IDS, dtype), np.array(MASK, mask_dtype)) == KEPT


@pytest.mark.parametrize(
    ("input_ids", "attention_mask", "expected"),
    [
        ([[1, 2, 3], [4]], None, [[1, 2, 3], [4]]),
        ([[1, 2, 3], [4]], [[1, 0, 1], [True]], [[1, 3], [4]]),
        ([np.array([1, 2]), torch.tensor([3])], None, [[1, 2], [3]]),
        ([[], [5]], None, [[], [5]]),
        (IDS, np.array(MASK), KEPT),
        (torch.tensor(IDS), MASK, KEPT),
    ],
    ids=["ragged", "ragged mask", "rows of arrays", "empty row", "list and array", "tensor and list"],
)
def test_lists_and_mixtures(input_ids: Any, attention_mask: Any, expected: list[list[int]]) -> None:
    assert kept(input_ids, attention_mask) == expected


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ([0, 0, 1, 1], [3, 4]),
        ([1, 1, 0, 0], [1, 2]),
        ([1, 0, 0, 1], [1, 4]),
        ([0, 1, 1, 0], [2, 3]),
        ([0, 0, 0, 0], []),
    ],
    ids=["left padding", "right padding", "interior zeros", "both sides", "all zero"],
)
def test_any_pattern_of_mask(mask: list[int], expected: list[int]) -> None:
    assert kept(np.array([[1, 2, 3, 4]]), np.array([mask])) == [expected]


@pytest.mark.parametrize(
    ("input_ids", "width"),
    [(np.zeros((2, 5), np.int64), 5), ([[1, 2, 3], [4]], 3), ([[], []], 0), (torch.zeros(1, 0, dtype=torch.int64), 0)],
)
def test_width_is_the_arrays_or_the_longest_rows(input_ids: Any, width: int) -> None:
    assert Prompts.of(input_ids).width == width


def test_padding_may_hold_ids_that_no_token_has() -> None:
    assert kept(np.array([[-100, 5], [2**40, 6]]), np.array([[0, 1], [0, 1]])) == [[5], [6]]


def test_later_changes_of_the_trainers_array_do_not_reach_the_prompts() -> None:
    given_ids = np.array([[1, 2]], np.int32)
    prompts = Prompts.of(given_ids)
    given_ids[:] = 9
    assert prompts.ids[0].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("input_ids", "mask", "what", "row", "column", "words"),
    [
        ([[1, 2], [3, -4]], None, "input_ids", 1, 1, "-4 is not within"),
        (np.array([[1, 2**31]]), None, "input_ids", 0, 1, "2147483648 is not within"),
        ([[1, 2**70]], None, "input_ids", 0, None, "beyond 64 bits"),
        (np.array([[1.0, 2.0]]), None, "input_ids", 0, None, "dtype float64: token ids are integers"),
        (torch.tensor([[True]]), None, "input_ids", 0, None, "dtype bool"),
        ([[1, True]], None, "input_ids", 0, None, "mixed"),
        ([["a"]], None, "input_ids", 0, None, "token ids are integers"),
        ([[[1]], [[2]]], None, "input_ids", 0, None, "one dimension"),
        ([1, 2, 3], None, "input_ids", 0, None, "expected a list of ids"),
        (np.array([1, 2]), None, "input_ids", None, None, "expected (prompts, columns)"),
        ("text", None, "input_ids", None, None, "got str"),
        ({"input_ids": [[1]]}, None, "input_ids", None, None, "mapping"),
        ([], None, "input_ids", None, None, "at least one row"),
        (torch.zeros(1, 2, dtype=torch.bfloat16), None, "input_ids", None, None, "expected integers"),
        ([[1, 2]], [[1, 2]], "attention_mask", 0, 1, "2 is neither 0 nor 1"),
        ([[1, 2]], np.array([[1.0, np.nan]]), "attention_mask", 0, 1, "neither 0 nor 1"),
        ([[1, 2]], [[1]], "attention_mask", 0, None, "1 columns, but input_ids has 2"),
        ([[1, 2]], [[1, 1], [1, 1]], "attention_mask", None, None, "2 rows, but input_ids has 1"),
        ([[1]], [["x"]], "attention_mask", 0, None, "expected 0 and 1"),
    ],
)  # fmt: skip
def test_what_is_no_prompt_is_refused_by_name(
    input_ids: Any, mask: Any, what: str, row: int | None, column: int | None, words: str
) -> None:
    with pytest.raises(PromptsError) as caught:
        Prompts.of(input_ids, mask)
    assert (caught.value.what, caught.value.row, caught.value.column) == (what, row, column)
    assert words in str(caught.value)


@given(st.lists(st.lists(st.tuples(st.integers(0, 2**31 - 1), st.booleans()), min_size=4, max_size=4), min_size=1))
def test_rows_keep_exactly_the_unmasked_ids_in_order(rows: list[list[tuple[int, bool]]]) -> None:
    ids = [[token for token, _ in row] for row in rows]
    mask = [[keep for _, keep in row] for row in rows]
    expected = [[token for token, keep in row if keep] for row in rows]
    assert kept(ids, mask) == kept(torch.tensor(ids), torch.tensor(mask)) == expected
