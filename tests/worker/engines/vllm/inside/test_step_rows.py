"""Each request finds its own rows in a step that stays whole. Without vLLM."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from rollstream.worker.engines.vllm.inside.step_rows import Place, StepRows, joined, keep_whole


class Rows(NamedTuple):
    """As vLLM's `LogprobsLists`."""

    logprob_token_ids: Any
    logprobs: Any
    sampled_token_ranks: Any
    cu_num_generated_tokens: Any = None


def step(starts: list[int] | None = None) -> StepRows:
    ids = np.arange(12).reshape(4, 3)
    return StepRows(rows=Rows(ids, -ids.astype(np.float32), np.arange(4), starts))


@pytest.mark.parametrize(
    ("starts", "request_number", "positions", "ranks"),
    [(None, 2, 1, [2]), (None, 0, 1, [0]), ([0, 1, 3], 1, 2, [1, 2]), ([0, 1, 3], 2, 0, [])],
)
def test_a_request_has_the_rows_that_vllm_would_cut_for_it(
    starts: list[int] | None, request_number: int, positions: int, ranks: list[int]
) -> None:
    place = step(starts).slice_request(request_number, positions)

    rows = place.alone()

    assert place.ranks == rows.sampled_token_ranks.tolist() == ranks
    assert place.logprobs == rows.logprobs[:, 0].tolist() == [-3.0 * rank for rank in ranks]
    assert rows.logprob_token_ids.tolist() == [[3 * rank + column for column in range(3)] for rank in ranks]
    assert rows.cu_num_generated_tokens is None


def test_a_completion_that_is_cut_keeps_its_first_rows() -> None:
    place = step([0, 1, 4]).slice_request(1, 3)

    assert place.slice_request(0, 2).ranks == [1, 2]


def test_places_of_several_steps_are_joined_in_order() -> None:
    places = [step().slice_request(1, 1), step([0, 2]).slice_request(1, 2)]

    ids, logprobs = joined(places, 2)

    assert ids.tolist() == [[3, 4], [6, 7], [9, 10]]
    assert logprobs.tolist() == [[-3, -4], [-6, -7], [-9, -10]]
    assert (ids.dtype.name, logprobs.dtype.name) == ("int32", "float32")


def test_a_scheduler_hands_out_places_and_nothing_where_there_are_no_logprobs() -> None:
    class Scheduler:
        def update_from_output(self, _scheduled: Any, found: Any) -> Any:
            return found.logprobs and found.logprobs.slice_request(1, 1)

    keep_whole(Scheduler)
    keep_whole(Scheduler)

    found = SimpleNamespace(logprobs=step().rows)
    assert isinstance(Scheduler().update_from_output(None, found), Place)
    assert Scheduler().update_from_output(None, SimpleNamespace(logprobs=None)) is None
