"""What vLLM says becomes completions only where it can be true."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from rollstream.schemas import ErrorCode, GenerationConfig
from rollstream.worker.engines.vllm.inside.logits import NOT_FINITE
from rollstream.worker.engines.vllm.translation import Words, candidates, completions, each, sampling_fields
from rollstream.worker.errors import DataError, EngineDiedError
from rollstream.worker.requests import GenerateRequest

REPETITION = {"max_pattern_size": 4, "min_count": 5}
SPANS = [(((0, 1),), True)]


def output(logprob: float) -> SimpleNamespace:
    """A final `RequestOutput` of one token."""
    flat = SimpleNamespace(logprobs=[logprob])
    one = SimpleNamespace(index=0, token_ids=[5], logprobs=flat, finish_reason="length", stop_reason=None, text="")
    return SimpleNamespace(outputs=[one])


def asked(**fields: Any) -> GenerateRequest:
    return GenerateRequest(
        request_id="b/0/1",
        prompt=[5],
        config=GenerationConfig(**{"max_new_tokens": 1, **fields}),
        stop_token_ids=(2,),
        seed=None,
        adapter=None,
    )


@pytest.mark.parametrize("ends", [{"stop_strings": "a"}, {"stop_on_repetition": REPETITION}])
def test_what_may_end_a_completion_waits_for_the_least_number_of_tokens(ends: dict[str, Any]) -> None:
    least = {"max_new_tokens": 8, "min_new_tokens": 4, "ignore_eos": True}

    fields = sampling_fields(replace(asked(**least, **ends), stop_token_ids=()))

    assert fields["min_tokens"] == 4


@pytest.mark.parametrize("n", [1, 8])
def test_one_request_gives_all_completions_and_the_log_probs_of_no_other_tokens(n: int) -> None:
    fields = sampling_fields(asked(num_return_sequences=n, logprobs="processed"))

    assert (fields["n"], fields["logprobs"], fields["detokenize"]) == (n, 0, False)


def test_fewer_completions_than_asked_for_are_no_answer() -> None:
    with pytest.raises(EngineDiedError, match="1 of 2"):
        completions(output(-0.5), asked(num_return_sequences=2), SPANS)


def test_a_finite_log_prob_is_passed_on() -> None:
    (found,) = completions(output(-0.5), asked(), SPANS)

    assert found.logprobs is not None
    assert found.logprobs.tolist() == [-0.5]


@pytest.mark.parametrize(
    ("finish", "reason"),
    [("length", "length"), ("stop", "stop"), ("repetition", "repetition"), ("of tomorrow", "stop")],
)
def test_vllms_finish_reason_becomes_ours(finish: str, reason: str) -> None:
    ended = output(-0.5)
    ended.outputs[0].finish_reason = finish

    assert completions(ended, asked(), SPANS)[0].finish_reason == reason


@pytest.mark.parametrize("logprob", [math.nan, -math.inf])
def test_a_token_that_nothing_was_left_to_sample_from_is_refused(logprob: float) -> None:
    with pytest.raises(DataError, match="finite") as caught:
        completions(output(logprob), asked(), SPANS)

    assert caught.value.code is ErrorCode.ENGINE_REFUSED


def test_where_a_guide_left_nothing_the_error_names_it() -> None:
    lost = output(-0.5)
    lost.outputs[0].finish_reason, lost.outputs[0].stop_reason = "error", NOT_FINITE

    for ended in (lost, output(math.nan)):
        with pytest.raises(DataError, match="a stop id that the text needs") as refused:
            completions(ended, asked(guided={"regex": "abc"}), SPANS)
        assert (refused.value.code, refused.value.field) == (ErrorCode.ENGINE_REFUSED, "guided")


def test_log_probs_that_only_the_worker_wanted_are_looked_at_and_left_out() -> None:
    request = asked(logprobs=None)

    fields = sampling_fields(request, always_logprobs=True)
    (found,) = completions(output(-0.5), request, SPANS)

    assert (fields["logprobs"], sampling_fields(request)["logprobs"], found.logprobs) == (0, None, None)
    with pytest.raises(DataError, match="finite"):
        completions(output(math.nan), request, SPANS)


@pytest.mark.parametrize(
    ("finish", "stop", "kind", "says"),
    [
        ("error", NOT_FINITE, DataError, "not finite"),
        ("error", None, DataError, "could not prepare"),
        ("abort", None, EngineDiedError, "nobody gave up"),
    ],
)
def test_what_was_not_sampled_is_neither_a_completion_nor_a_step_of_beams(
    finish: str, stop: str | None, kind: type[Exception], says: str
) -> None:
    ended = output(-0.5)
    ended.outputs[0].finish_reason, ended.outputs[0].stop_reason = finish, stop

    for read in (lambda: completions(ended, asked(), SPANS), lambda: candidates(ended)):
        with pytest.raises(kind, match=says):
            read()


@pytest.mark.parametrize("goes_on", [False, True])
def test_an_aborted_completion_is_left_to_a_caller_that_goes_on(*, goes_on: bool) -> None:
    found = output(-0.5)
    found.outputs[0].finish_reason = "abort"
    request = replace(asked(logprobs="processed"), goes_on=goes_on)
    if not goes_on:
        with pytest.raises(EngineDiedError, match="nobody gave up"):
            completions(found, request, SPANS)
        return

    (left,) = completions(found, request, SPANS)

    assert (left.finish_reason, left.token_ids.tolist()) == ("abort", [5])


@pytest.mark.parametrize(
    ("fields", "logprob", "problem"),
    [
        ({"allowed_token_ids": (6, 7)}, -0.5, "allowed_token_ids forbids"),
        ({}, math.nan, "not finite"),
        ({}, -math.inf, "not finite"),
    ],
)
def test_a_part_is_refused_where_the_whole_would_be(fields: dict[str, Any], logprob: float, problem: str) -> None:
    found = output(logprob)
    found.outputs[0].finish_reason = None

    with pytest.raises(DataError, match=problem):
        each(found, asked(logprobs="processed", **fields), SPANS, Words(), None, by_us=True)
