"""What is said of a result's bytes before it exists is what its tensors then have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rollstream.schemas import ConfigError, GenerationConfig, GroupResult, Tensor, decode, encode
from rollstream.schemas.wire.sizes.limits import MAX_BYTES
from rollstream.schemas.wire.sizes.result_size import MAX_RESULT_BYTES, check_result_fits, result_bytes
from tests.support.answers import result_of


def full(config: GenerationConfig, prompt_tokens: int) -> GroupResult:
    """Each of its completions has all its tokens."""
    ids = np.full((config.num_return_sequences, config.max_new_tokens), 7).tolist()
    changes: dict[str, Any] = {"logprobs": None, "logprobs_flavour": None} if config.logprobs is None else {}
    return result_of(0, [5] * prompt_tokens, ids, **changes)


@pytest.mark.parametrize("logprobs", ["processed", "raw", None])
@pytest.mark.parametrize(("n", "length", "prompt"), [(1, 1, 0), (3, 5, 2), (8, 4096, 1000)])
def test_the_bytes_of_a_result_follow_from_its_config(logprobs: Any, n: int, length: int, prompt: int) -> None:
    config = GenerationConfig(max_new_tokens=length, num_return_sequences=n, logprobs=logprobs)
    result = full(config, prompt)
    tensors = [result.prompt, result.token_ids, result.response_mask, result.logprobs]

    assert result_bytes(config, prompt) == sum(len(tensor.data) for tensor in tensors if tensor is not None)


def test_what_is_let_through_at_the_limit_can_be_sent_and_read() -> None:
    config = GenerationConfig(max_new_tokens=2**16, num_return_sequences=64)
    prompt = (MAX_RESULT_BYTES - result_bytes(config)) // 4
    check_result_fits(config, prompt)

    data = encode(full(config, 0).model_copy(update={"prompt": Tensor.of(np.full(prompt, 5, np.int32))}))

    assert MAX_RESULT_BYTES < len(data) <= MAX_BYTES
    assert len(decode(data, GroupResult)) == 64


def test_what_is_beyond_it_names_both_numbers_and_the_remedy() -> None:
    config = GenerationConfig(max_new_tokens=2**16, num_return_sequences=64)
    prompt = (MAX_RESULT_BYTES - result_bytes(config)) // 4 + 1

    with pytest.raises(ConfigError) as caught:
        check_result_fits(config, prompt)

    told = str(caught.value)
    assert (caught.value.field, caught.value.value) == ("max_new_tokens", 2**16)
    assert f"a result of {result_bytes(config, prompt)} bytes" in told
    assert f"one message carries {MAX_RESULT_BYTES}" in told
    assert "ask for fewer or shorter completions a prompt" in told


def test_of_the_samples_that_first_k_cuts_an_answer_has_only_the_length() -> None:
    three = GenerationConfig(max_new_tokens=16, num_return_sequences=3)
    three_of_five = GenerationConfig(max_new_tokens=16, num_return_sequences=5, first_k=3)

    assert result_bytes(three_of_five, 7) == result_bytes(three, 7) + 2 * 4
