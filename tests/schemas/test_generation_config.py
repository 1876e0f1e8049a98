"""A generation config that exists is safe to hand to the engine; anything else is refused by name."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollstream.schemas import ConfigError, GenerationConfig

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"max_new_tokens": 0}, "max_new_tokens"),
    ({"max_new_tokens": 2**20 + 1}, "max_new_tokens"),
    ({"max_new_tokens": 8.0}, "max_new_tokens"),
    ({"max_new_tokens": True}, "max_new_tokens"),
    ({"max_new_tokens": "8"}, "max_new_tokens"),
    ({"max_new_tokens": 2**20, "num_return_sequences": 5}, "max_new_tokens"),
    ({"min_new_tokens": -1}, "min_new_tokens"),
    ({"min_new_tokens": 9}, "min_new_tokens"),
    ({"temperature": math.nan}, "temperature"),
    ({"temperature": math.inf}, "temperature"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 2.5}, "temperature"),
    ({"temperature": 0.005}, "temperature"),
    ({"temperature": "1"}, "temperature"),
    ({"temperature": None}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": 0.0}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_p": math.nan}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"top_k": 1.0}, "top_k"),
    ({"top_k": True}, "top_k"),
    ({"min_p": -0.1}, "min_p"),
    ({"min_p": 1.1}, "min_p"),
    ({"min_p": math.nan}, "min_p"),
    ({"repetition_penalty": 0.0}, "repetition_penalty"),
    ({"repetition_penalty": math.nan}, "repetition_penalty"),
    ({"presence_penalty": 2.1}, "presence_penalty"),
    ({"frequency_penalty": -math.inf}, "frequency_penalty"),
    ({"num_return_sequences": 0}, "num_return_sequences"),
    ({"num_return_sequences": 1025}, "num_return_sequences"),
    ({"num_return_sequences": True}, "num_return_sequences"),
    ({"num_return_sequences": 2, "temperature": 0.0}, "num_return_sequences"),
    ({"num_beams": 0}, "num_beams"),
    ({"num_beams": 2, "num_return_sequences": 3}, "num_beams"),
    ({"num_beams": 2, "temperature": 0.7}, "temperature"),
    ({"num_beams": 2, "logit_bias": {1: 1.0}}, "logit_bias"),
    ({"num_beams": 2, "length_penalty": math.nan}, "length_penalty"),
    ({"num_beams": 2, "length_penalty": 1e9}, "length_penalty"),
    ({"length_penalty": 2.0}, "length_penalty"),
    ({"early_stopping": True}, "early_stopping"),
    ({"num_beams": 2, "early_stopping": "sometimes"}, "early_stopping"),
    ({"eos_token_id": -1}, "eos_token_id.0"),
    ({"eos_token_id": [2, None]}, "eos_token_id.1"),
    ({"eos_token_id": 2**31}, "eos_token_id.0"),
    ({"stop_token_ids": [True]}, "stop_token_ids.0"),
    ({"stop_strings": [""]}, "stop_strings.0"),
    ({"stop_strings": [1]}, "stop_strings.0"),
    ({"ignore_eos": None}, "ignore_eos"),
    ({"ignore_eos": "yes"}, "ignore_eos"),
    ({"ignore_eos": 1}, "ignore_eos"),
    ({"bad_words": [""]}, "bad_words.0"),
    ({"logit_bias": {6: "x"}}, "logit_bias.6"),
    ({"logit_bias": {6: math.nan}}, "logit_bias.6"),
    ({"logit_bias": {6: 101.0}}, "logit_bias.6"),
    ({"logit_bias": {-6: 1.0}}, "logit_bias.-6"),
    ({"logit_bias": {"6": 1.0}}, "logit_bias.6"),
    ({"logit_bias": {6.0: 1.0}}, "logit_bias.6.0"),
    ({"allowed_token_ids": []}, "allowed_token_ids"),
    ({"allowed_token_ids": [5.0]}, "allowed_token_ids.0"),
    ({"seed": 1.5}, "seed"),
    ({"seed": "5"}, "seed"),
    ({"seed": -1}, "seed"),
    ({"seed": 2**63}, "seed"),
    ({"logprobs": 1}, "logprobs"),
    ({"logprobs": "cooked"}, "logprobs"),
    ({"do_sample": True}, "do_sample"),
    ({"num_return_sequences": 4, "first_k": 5}, "first_k"),
    ({"num_return_sequences": 4, "first_k": 0}, "first_k"),
    ({"num_return_sequences": 4, "first_k": -1}, "first_k"),
    ({"num_return_sequences": 4, "first_k": 3.0}, "first_k"),
    ({"first_k": True}, "first_k"),
    ({"num_beams": 4, "num_return_sequences": 4, "first_k": 2}, "first_k"),
]


@pytest.mark.parametrize(("values", "field"), REFUSED, ids=lambda value: str(value)[:40])
def test_a_value_out_of_bounds_is_refused_by_name(values: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        GenerationConfig(**{"max_new_tokens": 8, **values})

    assert caught.value.field.startswith(field)
    assert caught.value.field in str(caught.value)


def test_an_unknown_name_is_answered_with_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'temperature'"):
        GenerationConfig(max_new_tokens=8, temperatur=0.5)  # type: ignore[call-arg]  # the mistake under test


def test_a_missing_max_new_tokens_is_named() -> None:
    with pytest.raises(ConfigError, match="max_new_tokens: is required"):
        GenerationConfig()  # type: ignore[call-arg]  # the mistake under test


def test_one_id_and_a_list_of_ids_mean_the_same() -> None:
    one = GenerationConfig(max_new_tokens=8, eos_token_id=2, stop_strings="x")  # type: ignore[arg-type]  # coerced
    several = GenerationConfig(max_new_tokens=8, eos_token_id=[2], stop_strings=["x"])  # type: ignore[arg-type]  # coerced

    assert one == several
    assert one.eos_token_id == (2,)


def test_a_config_cannot_be_changed_after_it_was_checked() -> None:
    config = GenerationConfig(max_new_tokens=8)

    with pytest.raises(Exception, match="frozen"):
        config.temperature = math.nan  # type: ignore[misc]  # the mistake under test


def test_a_whole_number_is_a_valid_float() -> None:
    assert GenerationConfig(max_new_tokens=8, temperature=1).temperature == 1.0


@pytest.mark.parametrize(
    ("values", "same"),
    [
        ({}, True),
        ({"temperature": 0.0}, True),
        ({"temperature": 0.7}, False),
        ({"top_p": 0.9}, False),
        ({"min_new_tokens": 2}, False),
        ({"eos_token_id": [3]}, True),
    ],
)
def test_log_prob_flavours_are_the_same_where_nothing_reshapes_the_distribution(
    values: dict[str, Any], same: bool
) -> None:
    assert GenerationConfig(**{"max_new_tokens": 8, **values}).processed_equals_raw is same


@given(st.dictionaries(st.sampled_from(sorted(GenerationConfig.model_fields)), st.from_type(object), max_size=4))
def test_whatever_is_given_the_answer_is_a_config_or_a_config_error(values: dict[str, Any]) -> None:
    try:
        config = GenerationConfig(**{"max_new_tokens": 8, **values})
    except ConfigError:
        return
    assert config.num_beams >= 1


def test_the_first_k_of_n_are_what_a_prompt_is_answered_with() -> None:
    config = GenerationConfig(max_new_tokens=8, num_return_sequences=8, first_k=6)

    assert (config.sequences_per_prompt, config.completions_per_prompt) == (8, 6)
    assert config.needs == ("first_k",)


def test_the_first_n_of_n_are_the_same_as_all() -> None:
    of_all = GenerationConfig(max_new_tokens=8, num_return_sequences=4)

    assert GenerationConfig(max_new_tokens=8, num_return_sequences=4, first_k=4) == of_all
    assert of_all.model_copy(update={"first_k": 4}).needs == ()
    assert GenerationConfig(max_new_tokens=8, first_k=1).completions_per_prompt == 1
