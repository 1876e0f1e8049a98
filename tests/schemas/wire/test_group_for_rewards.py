"""What a reward function does with a group gives what it looks like, or an error that says what to write."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from rollstream.schemas import Completion, GroupResult, Tensor, decode, encode
from tests.support.answers import error_of, result_of

IDS = [[7, 8, 9], [5]]
GROUP = result_of(3, [1, 2], IDS, texts=("abc", "d"), scores=Tensor.of(np.array([-1.5, -2.5], np.float32)))
PADDED = [[7, 8, 9], [5, 0, 0]]


def test_a_group_has_its_completions_one_by_one_without_padding() -> None:
    first, second = GROUP.completions
    assert (len(GROUP), GROUP.group, GROUP.prompt_ids) == (2, 3, [1, 2])
    assert first == Completion(
        sample=0,
        token_ids=[7, 8, 9],
        logprobs=[-1.0, -1.125, -1.25],
        text="abc",
        finish_reason="stop",
        stop_reason=9,
        score=-1.5,
        version_spans=((0, 3),),
    )
    assert second == Completion(
        sample=1,
        token_ids=[5],
        logprobs=[-2.0],
        text="d",
        finish_reason="stop",
        stop_reason=5,
        score=-2.5,
        version_spans=((0, 1),),
    )
    assert [len(one) for one in GROUP] == [3, 1]
    assert [list(one) for one in GROUP] == IDS
    assert all(type(token) is int for one in GROUP for token in one.token_ids)


def test_what_was_not_asked_for_is_none() -> None:
    group = result_of(0, [1], [[7], []], logprobs=None, logprobs_flavour=None)
    assert [(one.logprobs, one.text, one.score) for one in group] == [(None, None, None)] * 2
    assert [len(one) for one in group] == [1, 0]


def test_a_failed_group_is_not_rewarded_as_an_empty_one() -> None:
    error = error_of(4, [1])
    looks: list[Callable[[], Any]] = [lambda: error.completions, lambda: list(error), lambda: len(error.completions)]
    for look in looks:
        with pytest.raises(TypeError, match="group 4 failed and has no completions: too_long: prompt"):
            look()


@pytest.mark.parametrize(
    "read",
    [
        lambda tensor: tensor.tolist(),
        lambda tensor: tensor.numpy().tolist(),
        lambda tensor: np.asarray(tensor).tolist(),
        lambda tensor: torch.as_tensor(tensor).tolist(),
        lambda tensor: torch.tensor(tensor).tolist(),
        lambda tensor: [row.tolist() for row in tensor],
        lambda tensor: [tensor[row].tolist() for row in range(len(tensor))],
    ],
)
def test_a_tensor_of_a_result_is_read_as_an_array_is(read: Callable[[Any], Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of torch's "extremely slow", or of an array that must not be written to
        assert read(GROUP.token_ids) == PADDED
        assert read(GROUP.response_mask) == [[True, True, True], [True, False, False]]


def test_what_torch_makes_of_a_tensor_may_be_written_to() -> None:
    made = torch.as_tensor(GROUP.token_ids)
    made[:] = 0
    assert GROUP.token_ids.tolist() == PADDED


@pytest.mark.parametrize(
    "look",
    [lambda: bool(GROUP.logprobs), lambda: GROUP.token_ids == PADDED, lambda: GROUP.token_ids != np.array(PADDED)],
)
def test_what_a_tensor_cannot_answer_names_what_can(look: Callable[[], Any]) -> None:
    with pytest.raises(TypeError, match=r"\.numpy\(\)"):
        look()


def test_results_are_still_equal_by_content() -> None:
    other = result_of(3, [1, 2], [[7, 8, 9], [6]])
    for same in (decode(encode(GROUP), GroupResult), pickle.loads(pickle.dumps(GROUP)), copy.deepcopy(GROUP)):
        assert same == GROUP
        assert hash(same.token_ids) == hash(GROUP.token_ids)
    assert other.token_ids != GROUP.token_ids
    assert GROUP.token_ids != None  # noqa: E711 - what a careless caller writes
    assert "<Tensor int32 (2, 3)>" in repr(GROUP)
