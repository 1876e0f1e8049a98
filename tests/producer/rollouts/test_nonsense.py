"""Candidates of a result that cannot be are told from those that a truncation left."""

from __future__ import annotations

import numpy as np
import pytest

from rollstream import GenerationConfig
from rollstream.producer.rollouts.asked_for import not_as_asked
from rollstream.schemas import Tensor
from tests.support.engine.candidates import rich_result

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("ids", "log_probs", "said"),
    [
        ([4, 5, 6], [-1, -2, -3], None),
        ([4, 5, 5], [-1, -INF, -INF], None),
        ([4, 5, 6], [0.0005, -INF, -INF], None),
        ([4, 4, 6], [-1, -2, -3], "an id stands twice"),
        ([4, 5, 6], [-1, -3, -2], "not sorted"),
        ([4, 5, 6], [-1, -INF, -3], "not sorted"),
        ([4, 5, 6], [-INF, -INF, -INF], "above minus infinity"),
        ([4, 5, 6], [-1, NAN, -3], "no number"),
        ([4, 5, 6], [1, -2, -3], "which is above 0"),
    ],
)
@pytest.mark.parametrize("is_forced", [False, True])
def test_candidates_of_a_sampled_token_are_checked(
    ids: list[int], log_probs: list[float], said: str | None, *, is_forced: bool
) -> None:
    result = rich_result(
        0, [1], [[7]], forced=[[int(is_forced)]],
        top_token_ids=Tensor.of(np.array([[ids]], np.int32)),
        top_logprobs=Tensor.of(np.array([[log_probs]], np.float32)),
    )  # fmt: skip
    problem = not_as_asked(GenerationConfig(max_new_tokens=1, top_logprobs=3), result)
    if said is None or is_forced:
        assert problem is None
    else:
        assert said in str(problem)
