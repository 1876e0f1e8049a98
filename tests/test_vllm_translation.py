"""What vLLM says becomes completions only where it can be true."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from schemas import ErrorCode, GenerationConfig
from worker.engine import GenerateRequest
from worker.errors import DataError, EngineDiedError
from worker.vllm_translation import completions, sampling_fields

SPANS = [(((0, 1),), True)]


def output(logprob: float) -> SimpleNamespace:
    """A final `RequestOutput` of one token."""
    flat = SimpleNamespace(logprobs=[logprob])
    one = SimpleNamespace(index=0, token_ids=[5], logprobs=flat, finish_reason="length", stop_reason=None, text="")
    return SimpleNamespace(outputs=[one])


@pytest.mark.parametrize("n", [1, 8])
def test_one_request_gives_all_completions_and_the_log_probs_of_no_other_tokens(n: int) -> None:
    config = GenerationConfig(max_new_tokens=1, num_return_sequences=n, logprobs="processed")

    fields = sampling_fields(GenerateRequest("b/0/1", [5], config, (), None, None))

    assert (fields["n"], fields["logprobs"], fields["detokenize"]) == (n, 0, False)


def test_fewer_completions_than_asked_for_are_no_answer() -> None:
    with pytest.raises(EngineDiedError, match="1 of 2"):
        completions(output(-0.5), GenerationConfig(max_new_tokens=1, num_return_sequences=2), SPANS)


def test_a_finite_log_prob_is_passed_on() -> None:
    (found,) = completions(output(-0.5), GenerationConfig(max_new_tokens=1), SPANS)

    assert found.logprobs is not None
    assert found.logprobs.tolist() == [-0.5]


@pytest.mark.parametrize("logprob", [math.nan, -math.inf])
def test_a_token_that_nothing_was_left_to_sample_from_is_refused(logprob: float) -> None:
    with pytest.raises(DataError, match="finite") as caught:
        completions(output(logprob), GenerationConfig(max_new_tokens=1), SPANS)

    assert caught.value.code is ErrorCode.ENGINE_REFUSED
