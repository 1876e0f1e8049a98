"""What people type into a config: other libraries' names and values, and numbers of numpy and torch."""

from __future__ import annotations

from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rollstream.schemas import Batch, ConfigError, GenerationConfig, decode, encode
from rollstream.schemas.generation.foreign_names import _DIFFERENT, _NOT_OFFERED, _RENAMED, advice

masked: Any = np.ma.masked_array
FIELDS = GenerationConfig.model_fields


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("max_tokens", "write 'max_new_tokens'"),
        ("max_completion_tokens", "write 'max_new_tokens'"),
        ("max_completion_length", "write 'max_new_tokens'"),
        ("response_length", "write 'max_new_tokens'"),
        ("max_length", "write 'max_new_tokens', which counts the completion alone"),
        ("min_tokens", "write 'min_new_tokens'"),
        ("n", "write 'num_return_sequences'"),
        ("num_generations", "write 'num_return_sequences'"),
        ("n_samples_per_prompt", "write 'num_return_sequences'"),
        ("stop", "write 'stop_strings' for texts or 'stop_token_ids' for ids"),
        ("stop_sequences", "write 'stop_strings'"),
        ("eos_token_ids", "write 'eos_token_id'"),
        ("use_beam_search", "write 'num_beams'"),
        ("do_sample", "temperature=0 is greedy"),
        ("pad_token_id", "give pad_token_id to `result` or `generate`"),
        ("best_of", "not offered"),
        ("no_repeat_ngram_size", "no worker offers it"),
        ("lora_request", "adapter='name@version'"),
        ("input_ids", "first argument of `submit`"),
        ("calculate_log_probs", "write 'logprobs'"),
        ("maxNewTokens", "write 'max_new_tokens'"),
        ("max-new-tokens", "write 'max_new_tokens'"),
        ("topP", "write 'top_p'"),
        ("maxOutputTokens", "write 'max_new_tokens'"),
        ("temprature", "did you mean 'temperature'?"),
        ("transformers_version", "leave it out"),
        ("_from_model_config", "leave it out"),
        ("frobnicate", "known names: max_new_tokens"),
    ],
)
def test_an_unknown_name_is_answered_with_what_it_means_here(name: str, told: str) -> None:
    for values in ({name: 3}, {"max_new_tokens": 8, name: None}):
        with pytest.raises(ConfigError, match="unknown name") as caught:
            GenerationConfig(**values)
        assert caught.value.field == name
        assert told in str(caught.value)


def test_a_name_of_several_lines_stays_on_one() -> None:
    values: dict[str, Any] = {"max_new_tokens": 8, "temp\n2026 all good\x1b[2J": 1}
    with pytest.raises(ConfigError) as caught:
        GenerationConfig(**values)
    assert str(caught.value).isprintable()


def test_the_table_of_names_sends_users_only_to_names_that_exist() -> None:
    for name in (*_RENAMED, *_DIFFERENT, *_NOT_OFFERED):
        assert name not in FIELDS, f"{name} is an option now"
        quoted = [word for word in advice(name, FIELDS).split("'")[1::2] if "@" not in word and " " not in word]
        assert set(quoted) <= {*FIELDS, "processed", "raw"}, name


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"max_new_tokens": np.int64(8)}, {"max_new_tokens": 8}),
        ({"max_new_tokens": torch.tensor(8)}, {"max_new_tokens": 8}),
        ({"seed": np.uint64(3)}, {"seed": 3}),
        ({"temperature": np.float32(0.5)}, {"temperature": 0.5}),
        ({"temperature": torch.tensor(0.5, requires_grad=True)}, {"temperature": 0.5}),
        ({"temperature": Decimal("0.5")}, {"temperature": 0.5}),
        ({"ignore_eos": np.True_}, {"ignore_eos": True}),
        ({"ignore_eos": torch.tensor(True)}, {"ignore_eos": True}),
        ({"eos_token_id": np.int32(2)}, {"eos_token_id": (2,)}),
        ({"eos_token_id": np.array([2, 3])}, {"eos_token_id": (2, 3)}),
        ({"eos_token_id": torch.tensor([2, 3])}, {"eos_token_id": (2, 3)}),
        ({"eos_token_id": [np.int64(2), torch.tensor(3)]}, {"eos_token_id": (2, 3)}),
        ({"stop_token_ids": {5, 4}}, {"stop_token_ids": (4, 5)}),
        ({"stop_token_ids": range(4, 6)}, {"stop_token_ids": (4, 5)}),
        pytest.param({"allowed_token_ids": {"a": 4, "b": 5}.values()}, {"allowed_token_ids": (4, 5)}, id="values"),
        pytest.param({"stop_strings": {"b", "a"}}, {"stop_strings": ("a", "b")}, id="set"),
        ({"stop_strings": np.str_("a")}, {"stop_strings": ("a",)}),
        ({"logit_bias": {np.int64(5): torch.tensor(1.5)}}, {"logit_bias": {5: 1.5}}),
        ({"stop_strings": None, "stop_token_ids": None, "bad_words": None, "logit_bias": None}, {}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_value_that_can_mean_one_thing_is_taken(given: dict[str, Any], meant: dict[str, Any]) -> None:
    config = GenerationConfig(**{"max_new_tokens": 8, **given})

    assert config == GenerationConfig(**{"max_new_tokens": 8, **meant})
    batch = Batch(batch_id="b", num_groups=1, num_jobs=1, prompt_width=1, config=config, submitted_at=0.0)
    assert decode(encode(batch), Batch).config == config


@pytest.mark.parametrize(
    ("given", "field", "told"),
    [
        ({"max_new_tokens": np.float64(8)}, "max_new_tokens", "got 8.0 (float)"),
        ({"max_new_tokens": torch.tensor([8])}, "max_new_tokens", "got some list"),
        ({"max_new_tokens": torch.tensor(8, device="meta")}, "max_new_tokens", "got some Tensor"),
        ({"num_return_sequences": np.True_}, "num_return_sequences", "got True (bool)"),
        ({"temperature": np.True_}, "temperature", "got True (bool)"),
        ({"temperature": torch.tensor(True)}, "temperature", "got True (bool)"),
        ({"temperature": torch.tensor([0.5])}, "temperature", "got some list"),
        ({"temperature": np.float32("nan")}, "temperature", "finite number"),
        ({"temperature": None}, "temperature", "leave it out for its default 1.0"),
        ({"max_new_tokens": None}, "max_new_tokens", "got None"),
        ({"top_p": 0}, "top_p", "1.0 is off"),
        ({"seed": -1}, "seed", "None is unseeded"),
        ({"logprobs": True}, "logprobs", "'processed' is under the sampling distribution"),
        ({"logit_bias": {5: np.True_}}, "logit_bias.5", "got True (bool)"),
        ({"eos_token_id": np.array([[2]])}, "eos_token_id", "got some ndarray"),
        ({"eos_token_id": np.array([2.0])}, "eos_token_id.0", "got 2.0 (float)"),
        ({"eos_token_id": masked([2, 3], mask=[0, 1])}, "eos_token_id.1", "got None"),
        ({"stop_token_ids": (i for i in [2])}, "stop_token_ids", "got some generator"),
        ({"stop_token_ids": range(2**30)}, "stop_token_ids", "got some range"),
        ({"stop_strings": b"x"}, "stop_strings", "got b'x' (bytes)"),
        ({"stop_strings": SimpleNamespace()}, "stop_strings", "got some SimpleNamespace"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_a_value_that_could_mean_another_thing_is_refused(given: dict[str, Any], field: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        GenerationConfig(**{"max_new_tokens": 8, **given})
    assert caught.value.field == field
    assert told in str(caught.value)


def test_options_without_names_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"GenerationConfig\(\*\*options\)"):
        GenerationConfig({"max_new_tokens": 8})  # type: ignore[arg-type, call-arg] # the mistake


def test_a_copy_with_other_values_is_checked_too() -> None:
    config = GenerationConfig(max_new_tokens=8, logit_bias={5: 1.0})
    assert config.model_copy(update={"seed": 3}) == GenerationConfig(max_new_tokens=8, logit_bias={5: 1.0}, seed=3)
    for update in ({"temperature": 9.0}, {"max_tokens": 9}):
        with pytest.raises(ConfigError):
            config.model_copy(update=update)
