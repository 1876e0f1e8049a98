"""A completion that two requests sampled is one completion, and only what is continued exactly is continued."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rollstream.schemas import GenerationConfig, Guided, Repetition
from rollstream.worker.jobs.seeds import rest_seed
from rollstream.worker.jobs.stitching import (
    BROKEN,
    EXACT,
    continues,
    ends_within,
    first_of,
    joined,
    joined_spans,
    rest_of,
)
from rollstream.worker.requests import Completion, GenerateRequest

IN_USE: dict[str, dict[str, Any]] = {
    "max_new_tokens": {"max_new_tokens": 9},
    "min_new_tokens": {"min_new_tokens": 2},
    "temperature": {"temperature": 0.5},
    "top_p": {"top_p": 0.5},
    "top_k": {"top_k": 5},
    "min_p": {"min_p": 0.1},
    "repetition_penalty": {"repetition_penalty": 1.5},
    "presence_penalty": {"presence_penalty": 0.5},
    "frequency_penalty": {"frequency_penalty": 0.5},
    "num_return_sequences": {"num_return_sequences": 4},
    "num_beams": {"num_beams": 2},
    "length_penalty": {"num_beams": 2, "length_penalty": 2.0},
    "early_stopping": {"num_beams": 2, "early_stopping": True},
    "eos_token_id": {"eos_token_id": 7},
    "stop_token_ids": {"stop_token_ids": [7]},
    "stop_strings": {"stop_strings": ["end"]},
    "include_stop_str_in_output": {"include_stop_str_in_output": True},
    "ignore_eos": {"ignore_eos": True},
    "bad_words": {"bad_words": ["bad"]},
    "logit_bias": {"logit_bias": {3: 1.0}},
    "allowed_token_ids": {"allowed_token_ids": [3, 4]},
    "seed": {"seed": 1},
    "logprobs": {"logprobs": None},
    "top_logprobs": {"top_logprobs": 3},
    "sampling_support": {"sampling_support": True, "top_k": 4},
    "label_token_ids": {"label_token_ids": [3, 4]},
    "guided": {"guided": Guided(regex="a+")},
    "thinking_budget": {"thinking_budget": 2},
    "first_k": {"num_return_sequences": 4, "first_k": 2},
    "stop_on_repetition": {"stop_on_repetition": Repetition(max_pattern_size=4, min_count=3)},
    "routed_experts": {"routed_experts": True},
}
STARTED_AGAIN = {
    "presence_penalty", "frequency_penalty", "num_beams", "length_penalty", "early_stopping", "stop_strings",
    "bad_words", "guided", "thinking_budget", "stop_on_repetition", "routed_experts",
}  # fmt: skip
"""Options whose use has a sample started again; the two of beam search only come with it."""


def test_every_option_is_known_to_be_continued_exactly_or_not() -> None:
    assert sorted((*EXACT, *BROKEN)) == sorted(GenerationConfig.model_fields), (
        "say of a new option what a rest makes of it"
    )
    assert set(IN_USE) == set(GenerationConfig.model_fields)


@pytest.mark.parametrize("option", GenerationConfig.model_fields)
def test_an_option_that_looks_back_at_what_was_sampled_is_not_continued(option: str) -> None:
    config = GenerationConfig(**{"max_new_tokens": 8, **IN_USE[option]})

    assert continues(config) == (option not in STARTED_AGAIN)


def whole(**options: Any) -> GenerateRequest:
    config = GenerationConfig(**{"max_new_tokens": 10, "num_return_sequences": 4, **options})
    return GenerateRequest(
        request_id="b/0/1",
        prompt=[5, 6],
        config=config,
        stop_token_ids=(2,),
        seed=100,
        adapter=None,
        late_stop_ids=(3,),
    )


def completion(tokens: list[int], spans: tuple[tuple[int, int], ...], **fields: Any) -> Completion:
    ids = np.array(tokens, np.int32)
    return Completion(
        token_ids=ids,
        **{"logprobs": -ids.astype(np.float32), "finish_reason": "length", "stop_reason": None, **fields},
        version_spans=spans,
    )


def test_the_rest_has_the_tokens_so_far_as_its_prompt_and_what_is_left_as_its_limits() -> None:
    rest = rest_of(whole(min_new_tokens=5), "b/0/2/3", 3, completion([7, 8, 9], ((0, 3),)))

    assert rest.request_id == "b/0/2/3"
    assert rest.prompt == [5, 6, 7, 8, 9]
    assert (rest.config.max_new_tokens, rest.config.min_new_tokens, rest.config.num_return_sequences) == (7, 2, 1)
    assert rest.seed == rest_seed(103, 3)
    assert (rest.stop_token_ids, rest.late_stop_ids) == ((2,), (3,))


def test_a_sample_that_has_nothing_yet_is_the_one_that_it_would_be_among_the_others() -> None:
    alone = rest_of(whole(), "b/0/1/2", 2, None)

    assert (alone.prompt, alone.seed, alone.first_sample) == ([5, 6], 102, 2)
    assert (alone.config.max_new_tokens, alone.config.num_return_sequences) == (10, 1)


def test_a_rest_of_an_unseeded_job_is_unseeded() -> None:
    request = whole()
    unseeded = GenerateRequest(
        request_id="r", prompt=request.prompt, config=request.config, stop_token_ids=(), seed=None, adapter=None
    )

    assert rest_of(unseeded, "r/1", 1, completion([7], ((0, 1),))).seed is None


def test_the_seed_of_a_rest_follows_from_the_sample_s_seed_and_the_place_alone() -> None:
    places = {rest_seed(seed, place) for seed in range(20) for place in range(1, 20)}

    assert rest_seed(7, 9) == 525761716810648443
    assert len(places) == 20 * 19


@pytest.mark.parametrize(
    ("tokens", "min_new_tokens", "ended"),
    [([7, 8], 0, False), ([7, 2], 0, True), ([3], 0, True), ([7, 3, 8], 2, False), ([7, 8, 3], 2, True)],
)
def test_nothing_comes_after_a_token_that_ends_a_completion(
    tokens: list[int], min_new_tokens: int, ended: bool
) -> None:
    assert ends_within(whole(min_new_tokens=min_new_tokens), np.array(tokens, np.int32)) == ended


def listed(array: NDArray[Any] | None) -> list[Any]:
    assert array is not None
    found: list[Any] = array.tolist()
    return found


def columns(tokens: list[int], forced: bool) -> Completion:
    length = len(tokens)
    return completion(
        tokens,
        ((len(tokens), length),),
        top_token_ids=np.array([[token, token + 1] for token in tokens], np.int32),
        top_logprobs=np.full((length, 2), -length, np.float32),
        label_logprobs=np.full((length, 3), -length, np.float32),
        support_ids=np.repeat(np.array(tokens, np.int32), 2),
        support_lengths=np.full(length, 2, np.int32),
        forced=np.ones(length, np.bool_) if forced else None,
    )


def test_all_that_belongs_to_the_tokens_is_joined_with_them() -> None:
    one = joined(columns([7, 8], forced=False), columns([9], forced=True))

    assert one.token_ids.tolist() == [7, 8, 9]
    assert listed(one.logprobs) == [-7, -8, -9]
    assert listed(one.top_token_ids) == [[7, 8], [8, 9], [9, 10]]
    assert listed(one.top_logprobs) == [[-2, -2], [-2, -2], [-1, -1]]
    assert listed(one.label_logprobs) == [[-2] * 3, [-2] * 3, [-1] * 3]
    assert listed(one.support_ids) == [7, 7, 8, 8, 9, 9]
    assert listed(one.support_lengths) == [2, 2, 2]
    assert listed(one.forced) == [False, False, True]
    assert one.version_spans == ((2, 2), (1, 1))


def test_how_it_ended_is_how_the_later_piece_ended() -> None:
    before = completion([7], ((0, 1),), finish_reason="abort", spans_exact=False)
    after = completion([2], ((1, 1),), finish_reason="stop", stop_reason=2)

    one = joined(before, after)

    assert (one.finish_reason, one.stop_reason, one.spans_exact) == ("stop", 2, False)


def test_the_beginning_of_a_completion_is_what_joined_with_the_end_gives_it_again() -> None:
    three = joined(columns([7, 8], forced=False), columns([9], forced=True))

    two = first_of(three, 2)

    assert first_of(three, 3) is three
    assert two.token_ids.tolist() == [7, 8]
    assert listed(two.support_ids) == [7, 7, 8, 8]
    assert two.version_spans == ((2, 2),)
    assert first_of(three, 1).version_spans == ((2, 1),)


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([(1, 3), (1, 2)], ((1, 5),)),
        ([(1, 3), (2, 0), (1, 2)], ((1, 5),)),
        ([(1, 3), (2, 2), (1, 1)], ((1, 3), (2, 2), (1, 1))),
        ([(1, 0)], ()),
    ],
)
def test_neighbours_of_one_version_are_one_span(
    spans: list[tuple[int, int]], expected: tuple[tuple[int, int], ...]
) -> None:
    assert joined_spans(spans) == expected
