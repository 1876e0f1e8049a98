"""Turns in messages: what does not fit the prompt or the groups is refused before anybody counts on it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rollstream.schemas import GroupResult, Job, Tensor, Turn, WireError, decode, encode
from tests.schemas.wire.golden_messages import TODAY

TURN = Turn(batch_id="b-0", group=3, sample=1)


def spans(*pairs: tuple[int, int]) -> Tensor:
    return Tensor.of(np.array(pairs, np.int32).reshape(len(pairs), 2))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"earlier_completions": None}, "come together"),
        ({"continued": None}, "come together"),
        ({"earlier_completions": spans((1, 2), (2, 1))}, "overlap"),
        ({"earlier_completions": spans((5, 3))}, "before the prompt of 8 ids does"),
        ({"earlier_completions": spans((2**31 - 1, 2**31 - 1))}, "before the prompt of 8 ids does"),
        ({"earlier_completions": spans((-1, 3))}, "must lie within 0"),
        ({"earlier_completions": spans()}, "expected .1 to 10000, 2."),
        ({"earlier_completions": Tensor.of(np.zeros(2, np.int32))}, "2 dimensions"),
        ({"cached_tokens": -1}, "cached_tokens"),
    ],
)
def test_earlier_completions_lie_in_the_prompt_in_order(change: dict[str, Any], problem: str) -> None:
    data = encode(TODAY["GroupResult.v1.continued"].model_copy(update=change))

    with pytest.raises(WireError, match=problem):
        decode(data, GroupResult)


def test_a_result_says_where_its_own_new_ids_begin() -> None:
    result = TODAY["GroupResult.v1.continued"]
    assert isinstance(result, GroupResult)

    assert result.prefix_length == 6
    assert TODAY["GroupResult.v1.defaults-left-out"].model_dump().get("continued") is None


@pytest.mark.parametrize(
    "change",
    [
        {"continue_of": (TURN,)},
        {"continue_of": (TURN, None, None)},
        {"session": "a:b"},
        {"session_wait_s": 61.0},
        {"session_wait_s": -1.0},
    ],
)
def test_a_job_has_a_turn_for_each_group_and_a_session_with_a_bounded_wait(change: dict[str, Any]) -> None:
    data = encode(TODAY["Job.v1.continue-of"].model_copy(update=change))

    with pytest.raises(WireError, match=next(iter(change))):
        decode(data, Job)
