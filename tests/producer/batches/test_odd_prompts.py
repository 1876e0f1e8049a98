"""Tensors, arrays and columns of every kind: read as what they hold, or refused with what to give instead."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterator
from importlib import import_module
from types import FunctionType
from typing import Any

import numpy as np
import pytest
import torch

from rollstream import PromptsError
from rollstream.producer.batches.prompts import Prompts

IDS = torch.arange(1, 13).reshape(3, 4)
ROWS = IDS.tolist()
KEPT = [[3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]
"""Where the mask is `IDS > 2`."""

masked: Any = np.ma.masked_array


def jagged(*rows: list[Any], layout: Any = torch.jagged) -> Any:
    """Only in a test: the first one imports for seconds."""
    nested: Any = torch.nested.nested_tensor
    return nested([torch.tensor(row) for row in rows], layout=layout)


def pandas(kind: str, *given: Any) -> Any:
    return getattr(import_module("pandas"), kind)(*given)


def objects(*rows: Any) -> Any:
    held = np.empty(len(rows), object)
    held[:] = rows
    return held


def made(given: Any) -> Any:
    """What is made by a function is made in its test, not while tests are collected."""
    return given() if isinstance(given, FunctionType) else given


def kept(input_ids: Any, attention_mask: Any = None) -> list[list[int]]:
    return [row.tolist() for row in Prompts.of(input_ids, attention_mask).ids]


@pytest.mark.parametrize(
    ("input_ids", "expected"),
    [
        (lambda: jagged([1, 2], [3, 4, 5]), [[1, 2], [3, 4, 5]]),
        (lambda: jagged([1, 2], [3, 4, 5], layout=torch.strided), [[1, 2], [3, 4, 5]]),
        (IDS.to_sparse(), ROWS),
        (IDS.to_sparse_csr(), ROWS),
        (IDS.t(), IDS.t().tolist()),
        (IDS[:, ::2], IDS[:, ::2].tolist()),
        (IDS.to(torch.uint16), ROWS),
        (IDS.to(torch.uint64), ROWS),
        (IDS.numpy().astype(">i8"), ROWS),
        (IDS.numpy().astype(np.int8), ROWS),
        (np.asfortranarray(IDS.numpy()), ROWS),
        (np.asmatrix(IDS.numpy()), ROWS),
        (torch.nn.Parameter(IDS, requires_grad=False), ROWS),
        (torch.inference_mode()(lambda: torch.tensor(ROWS))(), ROWS),
        (np.array([[1, 2], [3, 4]], dtype=object), [[1, 2], [3, 4]]),
        (objects([1, 2], [3, 4, 5]), [[1, 2], [3, 4, 5]]),
        (lambda: pandas("Series", [[1, 2], [3]]), [[1, 2], [3]]),
        (lambda: pandas("Series", [np.array([1, 2]), np.array([3])]), [[1, 2], [3]]),
        ([IDS[0].to_sparse(), range(1, 3), deque([5]), array("i", [6])], [[1, 2, 3, 4], [1, 2], [5], [6]]),
        ([[torch.tensor(1), np.int32(2), 3]], [[1, 2, 3]]),
        (tuple(IDS), ROWS),
    ],
    ids=lambda value: type(value).__name__,
)
def test_ids_of_every_kind_are_read(input_ids: Any, expected: list[list[int]]) -> None:
    assert kept(made(input_ids)) == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn, torch.uint8])
def test_masks_of_every_dtype_are_read(dtype: torch.dtype) -> None:
    assert kept(IDS, (IDS > 2).to(dtype)) == KEPT


def test_ragged_and_sparse_masks_are_read() -> None:
    assert kept(IDS, (IDS > 2).int().to_sparse()) == KEPT
    assert kept(jagged([1, 2], [3, 4, 5]), jagged([1, 0], [0, 1, 1])) == [[1], [4, 5]]


@pytest.mark.parametrize(
    ("input_ids", "words"),
    [
        (IDS.to("meta"), "meta device"),
        (lambda: torch.quantize_per_tensor(torch.ones(2, 2), 1.0, 0, torch.quint8), "quantised"),
        (masked(ROWS, mask=np.zeros((3, 4))), "attention_mask"),
        ([masked([1, 2], mask=[0, 1])], "row 0: a masked array"),
        (lambda: pandas("DataFrame", {"input_ids": [5, 6], "attention_mask": [1, 1]}), "give its column of ids"),
        (lambda: jagged([1.0, 2.0], [3.0]), "expected integers"),
        (lambda: jagged([[1], [2]], [[3]]), "row 0: shape (2, 1)"),
        (lambda: [jagged([1], [2])], "row 0: got a nested"),
        (torch.ones(2, 2, requires_grad=True), "expected integers"),
        (torch.ones(2, 2, dtype=torch.complex64).conj(), "token ids are integers"),
        (np.zeros((2, 2), dtype=[("a", "i4")]), "token ids are integers"),
        (np.zeros((2, 2), dtype="M8[s]"), "token ids are integers"),
        (np.array(None, dtype=object), "shape (): expected (prompts, columns)"),
        (np.array([[1, 2**63 + 5]], dtype=np.uint64), "row 0, column 1: id 9223372036854775813"),
        (np.array([[1, -2]], dtype=np.int8), "row 0, column 1: id -2"),
        (torch.tensor([1, 2]), "one prompt alone is [ids]"),
        ([1, 2], "one prompt alone is [ids]"),
        ("text", "give tokenizer(texts)['input_ids']"),
        (["text"], "give tokenizer(texts)['input_ids']"),
        ((row for row in [[1]]), "write list(...) around it"),
        ([{1, 2}], "write list(...) around it"),
        ([{"prompt_token_ids": [1]}], "give the ids that it holds"),
        ([[1, np.True_]], "booleans and numbers are mixed"),
        ([[1, torch.tensor(True)]], "booleans and numbers are mixed"),
        ([[1, None]], "several kinds"),
        ([[1, 2.0]], "dtype float64: token ids are integers"),
        (None, "got NoneType"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_could_be_read_wrongly_is_refused_with_what_to_give(input_ids: Any, words: str) -> None:
    with pytest.raises(PromptsError) as caught:
        Prompts.of(made(input_ids))
    assert caught.value.what == "input_ids"
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.zeros(3, 4).masked_fill(IDS < 3, float("-inf")), "-inf is neither 0 nor 1"),
        (torch.full((3, 4), 1 + 1e-12, dtype=torch.float64), "is neither 0 nor 1"),
        (torch.ones(3, 1, 4, 4), "shape (3, 1, 4, 4)"),
        (torch.ones(4, 3), "4 rows, but input_ids has 3"),
        (torch.ones(3, 4, dtype=torch.complex64), "expected 0 and 1"),
        (masked(np.ones((3, 4)), mask=np.zeros((3, 4))), "mask.filled(0)"),
        ({"mask": 1}, "got a mapping"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_mask_that_says_something_else_is_refused(mask: Any, words: str) -> None:
    with pytest.raises(PromptsError) as caught:
        Prompts.of(IDS, mask)
    assert caught.value.what == "attention_mask"
    assert words in str(caught.value)


@pytest.fixture
def one_rank() -> Iterator[None]:
    dist: Any = import_module("torch.distributed")  # Any: not all of it is exported for type checkers
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_a_part_of_a_distributed_tensor_is_refused(one_rank: None) -> None:
    tensors: Any = import_module("torch.distributed.tensor")
    part = tensors.DTensor.from_local(IDS, tensors.init_device_mesh("cpu", (1,)), [tensors.Shard(0)])
    with pytest.raises(PromptsError, match="full_tensor"):
        Prompts.of(part)


def test_a_tensor_that_cannot_be_read_is_named() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        fake = torch.ones(2, 2, dtype=torch.int64)
    with pytest.raises(PromptsError, match="FakeTensor cannot be read"):
        Prompts.of(fake)
