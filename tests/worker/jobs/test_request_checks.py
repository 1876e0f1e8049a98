"""What the guard lets through and what it refuses, with the field that is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rollstream.schemas import ErrorCode, GenerationConfig
from rollstream.worker.engine import EngineInfo
from rollstream.worker.errors import DataError
from rollstream.worker.jobs.request_checks import check_config, check_prompt, late_stop_ids, stop_ids

INFO = EngineInfo(
    vocab_size=100,
    max_model_len=50,
    step_tokens=8192,
    max_num_seqs=4,
    eos_token_ids=(2, 3),
    max_logprobs=20,
    logprobs_flavour="processed",
    has_tokenizer=False,
    dtype="float32",
)


def config(**fields: Any) -> GenerationConfig:
    return GenerationConfig(**{"max_new_tokens": 8, **fields})


@pytest.mark.parametrize(
    ("fields", "ids"),
    [
        ({}, (2, 3)),
        ({"stop_token_ids": (9, 2)}, (2, 3, 9)),
        ({"eos_token_id": 7}, (7,)),
        ({"eos_token_id": ()}, ()),
        ({"ignore_eos": True}, ()),
        ({"ignore_eos": True, "eos_token_id": 7, "stop_token_ids": 5}, (5,)),
    ],
)
def test_stop_ids_join_eos_and_stop_ids(fields: dict[str, Any], ids: tuple[int, ...]) -> None:
    assert stop_ids(config(**fields), INFO) == ids


@pytest.mark.parametrize("more", [{}, {"ignore_eos": True}, {"eos_token_id": 7}, {"min_new_tokens": 2}])
def test_a_guided_completion_always_ends_at_the_tokenizers_eos(more: dict[str, Any]) -> None:
    info = replace(INFO, guide_end_ids=(4,), spoken_eos_ids=(4,))
    asked = config(guided={"regex": "a"}, **more)

    assert 4 in stop_ids(asked, info)
    assert late_stop_ids(asked, info) == ()
    assert 4 not in stop_ids(config(ignore_eos=True), info)


def test_a_budget_for_thinking_and_a_guide_exclude_each_other() -> None:
    info = replace(INFO, has_tokenizer=True, features=frozenset({"thinking_budget", "guided"}))

    with pytest.raises(DataError, match="one of both") as raised:
        check_config(config(thinking_budget=4, guided={"regex": "a"}), info)

    assert raised.value.field == "thinking_budget"


THINKING = replace(INFO, features=frozenset({"thinking_budget"}), thinking_marks=(8, 9))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"allowed_token_ids": (5, 8)}, "allowed_token_ids has not 9"),
        ({"stop_token_ids": 9, "min_new_tokens": 4}, "end of thinking, 9, ends a completion"),
        ({"eos_token_id": 9, "min_new_tokens": 4}, "end of thinking, 9, ends a completion"),
    ],
)
def test_a_budget_whose_end_could_not_be_forced_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said) as raised:
        check_config(config(thinking_budget=4, **fields), THINKING)

    assert (raised.value.code, raised.value.field) == (ErrorCode.INVALID_CONFIG, "thinking_budget")


@pytest.mark.parametrize("fields", [{"allowed_token_ids": (5, 9)}, {"stop_token_ids": 9}, {"min_new_tokens": 4}])
def test_a_budget_whose_end_can_be_forced_passes(fields: dict[str, Any]) -> None:
    check_config(config(thinking_budget=4, **fields), THINKING)


def test_a_missing_option_is_refused_with_what_it_would_need() -> None:
    info = replace(INFO, missing=(("thinking_budget", "start the worker with --thinking-marks"),))

    with pytest.raises(DataError, match="--thinking-marks") as raised:
        check_config(config(thinking_budget=4), info)

    assert (raised.value.code, raised.value.field) == (ErrorCode.UNSUPPORTED, "thinking_budget")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"eos_token_id": (0, 99), "stop_token_ids": 98, "logit_bias": {99: -1.0}, "allowed_token_ids": (0, 99)},
        {"num_return_sequences": 64},
        {"num_beams": 18},
        {"logprobs": "raw"},
        {"logprobs": None, "temperature": 0.5},
    ],
)
def test_a_config_that_the_engine_can_serve_passes(fields: dict[str, Any]) -> None:
    check_config(config(**fields), INFO)


@pytest.mark.parametrize(
    ("fields", "code", "field", "says"),
    [
        ({"eos_token_id": 100}, ErrorCode.TOKEN_OUT_OF_VOCABULARY, "eos_token_id", "id 100 is outside"),
        ({"stop_token_ids": (1, 100)}, ErrorCode.TOKEN_OUT_OF_VOCABULARY, "stop_token_ids", "of 100 ids"),
        ({"logit_bias": {500: 1.0}}, ErrorCode.TOKEN_OUT_OF_VOCABULARY, "logit_bias", "id 500"),
        ({"allowed_token_ids": (100,)}, ErrorCode.TOKEN_OUT_OF_VOCABULARY, "allowed_token_ids", "id 100"),
        ({"stop_strings": "ab"}, ErrorCode.NEEDS_TOKENIZER, "stop_strings", "--tokenizer"),
        ({"bad_words": "ab"}, ErrorCode.NEEDS_TOKENIZER, "bad_words", "--tokenizer"),
        ({"guided": {"regex": "a"}}, ErrorCode.NEEDS_TOKENIZER, "guided", "--tokenizer"),
        ({"num_beams": 19}, ErrorCode.INVALID_CONFIG, "num_beams", "20 candidates"),
        ({"logprobs": "raw", "temperature": 0.5}, ErrorCode.INVALID_CONFIG, "logprobs", "--logprobs-mode raw"),
        ({"logprobs": "raw", "top_p": 0.9}, ErrorCode.INVALID_CONFIG, "logprobs", "ask for 'processed'"),
    ],
)
def test_a_config_that_it_cannot_serve_is_refused_by_field(
    fields: dict[str, Any], code: ErrorCode, field: str, says: str
) -> None:
    with pytest.raises(DataError, match=says) as raised:
        check_config(config(**fields), INFO)

    assert (raised.value.code, raised.value.field) == (code, field)


def test_more_beams_than_the_vocabulary_can_fill_are_refused() -> None:
    check_config(config(num_beams=6), replace(INFO, vocab_size=8))
    with pytest.raises(DataError, match="vocabulary of 8"):
        check_config(config(num_beams=7), replace(INFO, vocab_size=8))


@pytest.mark.parametrize("prompt", [[0], [99, 0, 5], list(range(42))])
def test_a_prompt_within_the_bounds_passes(prompt: list[int]) -> None:
    check_prompt(np.array(prompt, np.int32), config(), INFO)


@pytest.mark.parametrize(
    ("prompt", "code", "says"),
    [
        ([], ErrorCode.EMPTY_PROMPT, "no tokens"),
        ([5, 100], ErrorCode.TOKEN_OUT_OF_VOCABULARY, "id 100 at position 1 .* 100 ids"),
        ([5, 6, -1], ErrorCode.TOKEN_OUT_OF_VOCABULARY, "id -1 at position 2"),
        (list(range(43)), ErrorCode.TOO_LONG, "43 prompt tokens .*max_new_tokens=8 .*max_model_len=50"),
    ],
)
def test_a_bad_prompt_is_refused_with_its_position_and_bound(prompt: list[int], code: ErrorCode, says: str) -> None:
    with pytest.raises(DataError, match=says) as raised:
        check_prompt(np.array(prompt, np.int32), config(), INFO)

    assert (raised.value.code, raised.value.field) == (code, "prompt")


SPOKEN = replace(INFO, spoken_eos_ids=(7,))


@pytest.mark.parametrize(
    ("fields", "stops", "late"),
    [
        ({}, (2, 3, 7), ()),
        ({"min_new_tokens": 1}, (2, 3), (7,)),
        ({"min_new_tokens": 1, "stop_token_ids": (7,)}, (2, 3, 7), ()),
        ({"eos_token_id": 5}, (5,), ()),
        ({"eos_token_id": 5, "min_new_tokens": 1}, (5,), ()),
        ({"ignore_eos": True, "min_new_tokens": 1}, (), ()),
        ({"ignore_eos": True}, (), ()),
    ],
)
def test_the_tokenizers_eos_ends_like_the_models_but_is_never_banned(
    fields: dict[str, Any], stops: tuple[int, ...], late: tuple[int, ...]
) -> None:
    assert (stop_ids(config(**fields), SPOKEN), late_stop_ids(config(**fields), SPOKEN)) == (stops, late)


TABLES = replace(INFO, max_allowed_ids=4, max_banned_stops=3)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"allowed_token_ids": (5, 6, 7, 8, 9)}, "allowed_token_ids"),
        ({"min_new_tokens": 1, "stop_token_ids": (5, 6)}, "min_new_tokens"),
    ],
)
def test_what_an_engines_tables_cannot_hold_is_refused_before_it_ends_the_engine(
    fields: dict[str, Any], field: str
) -> None:
    check_config(config(**fields), INFO)

    with pytest.raises(DataError, match="more than") as caught:
        check_config(config(**fields), TABLES)

    assert caught.value.field == field


def test_tables_hold_what_just_fits() -> None:
    check_config(config(allowed_token_ids=(5, 6, 7, 8), min_new_tokens=1, stop_token_ids=(5,)), TABLES)
    check_config(config(stop_token_ids=(5, 6, 7, 8, 9)), TABLES)


CANDIDATES = replace(INFO, features=frozenset({"top_logprobs", "sampling_support", "label_token_ids"}))


@pytest.mark.parametrize(
    "fields",
    [{"top_logprobs": 20}, {"sampling_support": True, "top_k": 19}, {"label_token_ids": (0, 99)}],
)
def test_candidates_that_the_engine_can_give_pass(fields: dict[str, Any]) -> None:
    check_config(config(**fields), CANDIDATES)


@pytest.mark.parametrize(
    ("fields", "vocab_size", "field", "said"),
    [
        ({"top_logprobs": 21}, 100, "top_logprobs", "20 at most"),
        ({"top_logprobs": 11}, 10, "top_logprobs", "vocabulary of 10"),
        ({"sampling_support": True, "top_k": 20}, 100, "sampling_support", "smaller top_k"),
        ({"label_token_ids": 5, "top_logprobs": 1}, 100, "label_token_ids", "beside top_logprobs"),
        ({"label_token_ids": 5, "sampling_support": True, "top_k": 4}, 100, "label_token_ids", "beside sampling_supp"),
    ],
)
def test_candidates_that_the_engine_cannot_give_are_refused_by_name(
    fields: dict[str, Any], vocab_size: int, field: str, said: str
) -> None:
    with pytest.raises(DataError, match=said) as refused:
        check_config(config(**fields), replace(CANDIDATES, vocab_size=vocab_size))

    assert (refused.value.code, refused.value.field) == (ErrorCode.INVALID_CONFIG, field)


def test_labels_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(DataError, match="id 100 is outside") as refused:
        check_config(config(label_token_ids=(5, 100)), CANDIDATES)

    assert refused.value.code is ErrorCode.TOKEN_OUT_OF_VOCABULARY
