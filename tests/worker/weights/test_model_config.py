"""A config is that of the same model whichever transformers saved it; what changes a forward pass is seen."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from rollstream.worker.weights.model_config import config_difference

Config = dict[str, Any]

_SIZES: Config = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 12, "num_attention_heads": 4,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "max_position_embeddings": 32768, "initializer_range": 0.02,
    "torch_dtype": "bfloat16", "transformers_version": "4.43.1", "use_cache": True,
}  # fmt: skip
_QWEN2: Config = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "hidden_act": "silu", "max_window_layers": 28,
    "rope_theta": 1000000.0, "sliding_window": 131072, "use_sliding_window": False, "tie_word_embeddings": False,
}  # fmt: skip
_LLAMA: Config = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rope_theta": 500000.0,
    "pretraining_tp": 1, "tie_word_embeddings": False,
}  # fmt: skip
_GEMMA3: Config = {
    "architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text", "head_dim": 16, "query_pre_attn_scalar": 16,
    "hidden_activation": "gelu_pytorch_tanh", "rope_theta": 1000000, "rope_local_base_freq": 10000,
    "sliding_window": 512, "sliding_window_pattern": 6,
}  # fmt: skip
_LLAMA3_ROPE = {
    "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}  # fmt: skip
_YARN = {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"}

# As their model cards have them, but for the sizes; no tied head but where the class has one by default.
HUB: dict[str, Config] = {
    "Qwen2.5": {**_SIZES, **_QWEN2},
    "Qwen2.5 with YaRN": {**_SIZES, **_QWEN2, "rope_scaling": _YARN},
    "Qwen2 with a sliding window": {
        **_SIZES, **_QWEN2, "use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 6,
    },
    "Qwen3": {
        **_SIZES, "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_act": "silu", "head_dim": 16,
        "max_window_layers": 12, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None,
        "use_sliding_window": False, "tie_word_embeddings": False,
    },
    "Qwen3 MoE": {
        **_SIZES, "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_act": "silu",
        "head_dim": 16, "rope_scaling": None, "rope_theta": 1000000.0, "sliding_window": None,
        "use_sliding_window": False, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
    },
    "Llama 2": {**_SIZES, **_LLAMA, "rope_theta": 10000.0, "rope_scaling": None, "head_dim": None},
    "Llama 3.1": {**_SIZES, **_LLAMA, "rope_scaling": _LLAMA3_ROPE},
    "Mistral": {
        **_SIZES, "architectures": ["MistralForCausalLM"], "model_type": "mistral", "hidden_act": "silu",
        "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": False,
    },
    "Gemma 1": {
        **_SIZES, "architectures": ["GemmaForCausalLM"], "model_type": "gemma", "hidden_act": "gelu",
        "hidden_activation": None, "head_dim": 16, "rope_theta": 10000.0, "tie_word_embeddings": False,
    },
    "Gemma 2": {
        **_SIZES, "architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2", "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh", "head_dim": 16, "rope_theta": 10000.0, "sliding_window": 4096,
        "query_pre_attn_scalar": 16, "tie_word_embeddings": False,
    },
    "Gemma 3": {**_SIZES, **_GEMMA3, "rope_scaling": None, "tie_word_embeddings": False},
    "Gemma 3 scaled": {
        **_SIZES, **_GEMMA3, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "tie_word_embeddings": False,
    },
    "Gemma 3 that sees": {
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "tie_word_embeddings": False,
        "text_config": {
            "hidden_size": 64, "intermediate_size": 128, "model_type": "gemma3_text", "num_hidden_layers": 12,
            "num_attention_heads": 4, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
            "tie_word_embeddings": False,
        },
        "vision_config": {
            "hidden_size": 32, "intermediate_size": 64, "model_type": "siglip_vision_model", "num_attention_heads": 2,
            "num_hidden_layers": 2, "patch_size": 14, "image_size": 56,
        },
    },
    "Qwen2-VL": {
        **_SIZES, **_QWEN2, "architectures": ["Qwen2VLForConditionalGeneration"], "model_type": "qwen2_vl",
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "vision_config": {"depth": 2, "embed_dim": 32, "num_heads": 2},
    },
    "OLMo 3": {
        **_SIZES, "architectures": ["Olmo3ForCausalLM"], "model_type": "olmo3", "hidden_act": "silu",
        "rope_theta": 500000, "rope_scaling": {**_YARN, "rope_type": "yarn"}, "sliding_window": 4096,
        "tie_word_embeddings": False,
    },
    "Phi-4 mini": {
        **_SIZES, "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "hidden_act": "silu", "pad_token_id": 0,
        "original_max_position_embeddings": 4096, "rope_theta": 10000.0, "sliding_window": 262144,
        "partial_rotary_factor": 0.75, "tie_word_embeddings": False,
        "rope_scaling": {"type": "longrope", "long_factor": [1.0] * 6, "short_factor": [1.0] * 6},
    },
}  # fmt: skip


def saved_again(config: Config, folder: Path) -> Config:
    """The config as the installed transformers writes it after reading it."""
    from transformers import AutoConfig  # takes seconds

    (folder / "hub").mkdir()
    (folder / "hub" / "config.json").write_text(json.dumps(config))
    AutoConfig.from_pretrained(folder / "hub").save_pretrained(folder / "saved")
    saved: Config = json.loads((folder / "saved" / "config.json").read_text())
    return saved


def differences(config: Config, other: Config) -> tuple[str | None, str | None]:
    return config_difference(config, other, tied=False), config_difference(other, config, tied=False)


def changed(config: Config, name: str) -> list[tuple[str, Config]]:
    """One copy for each place, at any depth, where the language model has a number of that name; it is another there.

    With the path to the place.
    """
    found = []
    for key, value in config.items():
        if key == name and value is not None:
            found.append((key, {**config, key: value * 2}))
        elif isinstance(value, dict) and key != "vision_config":
            found += [(f"{key}.{path}", {**config, key: inner}) for path, inner in changed(copy.deepcopy(value), name)]
    return found


@pytest.mark.parametrize("name", HUB)
def test_a_config_that_is_only_written_again_is_that_of_the_same_model(name: str, tmp_path: Path) -> None:
    saved = saved_again(HUB[name], tmp_path)

    assert differences(saved, HUB[name]) == (None, None)
    assert differences(saved, saved) == differences(HUB[name], HUB[name]) == (None, None)


@pytest.mark.parametrize("field", ["rope_theta", "factor", "num_attention_heads", "hidden_size"])
@pytest.mark.parametrize("name", HUB)
def test_a_changed_model_is_seen_through_a_rewriting(name: str, field: str, tmp_path: Path) -> None:
    hub, saved = HUB[name], saved_again(HUB[name], tmp_path)
    for path, other in changed(saved, field):
        # A model card that leaves the base out means the default of a class, which only transformers knows.
        unsaid = name == "Gemma 3 that sees" and field == "rope_theta"
        assert unsaid or None not in differences(other, hub), path
        assert None not in differences(other, saved), path
    for path, other in changed(hub, field):
        assert None not in differences(other, saved), path


def test_the_table_reaches_every_field_that_it_changes(tmp_path: Path) -> None:
    places = [path for path, _ in changed(saved_again(HUB["Gemma 3 scaled"], tmp_path), "rope_theta")]

    assert places == ["rope_parameters.full_attention.rope_theta", "rope_parameters.sliding_attention.rope_theta"]
    assert [path for path, _ in changed(HUB["Llama 3.1"], "factor")] == ["rope_scaling.factor"]


LINEAR, YARN = {"rope_type": "linear", "factor": 2.0}, {"rope_type": "yarn", "factor": 2.0}
NESTED = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}


@pytest.mark.parametrize(
    ("found", "booted", "field"),
    [
        ({"hidden_size": 8}, {"hidden_size": 8}, None),
        ({"hidden_size": 8}, {"hidden_size": 9}, "hidden_size"),
        # Written by another transformers, which moved or left out what it takes for the default.
        ({"hidden_size": 8}, {"hidden_size": 8, "rope_theta": 1e4}, None),
        ({"transformers_version": "5", "dtype": "float32"}, {"transformers_version": "4"}, None),
        ({"eos_token_id": 5, "use_cache": False}, {"eos_token_id": 6}, None),
        ({"tie_word_embeddings": True}, {}, "tie_word_embeddings"),
        ({"tie_word_embeddings": False}, {}, None),
        ({"tie_word_embeddings": None}, {}, None),
        ({"quantization_config": {"bits": 4}}, {"quantization_config": {"bits": 8}}, "quantization_config"),
        ({"head_dim": None}, {"head_dim": 16}, None),
        ({"hidden_activation": None}, {"hidden_activation": "gelu_pytorch_tanh"}, None),
        ({"final_logit_softcapping": None}, {"final_logit_softcapping": 30.0}, "final_logit_softcapping"),
        ({"layer_norm_epsilon": 1e-5}, {"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon"),
        ({"residual_multiplier": 0.2}, {"residual_multiplier": 0.3}, "residual_multiplier"),
        ({"norm_topk_prob": True}, {"norm_topk_prob": False}, "norm_topk_prob"),
        ({"use_parallel_residual": True}, {"use_parallel_residual": False}, "use_parallel_residual"),
        ({"do_layer_norm_before": True}, {"do_layer_norm_before": False}, "do_layer_norm_before"),
        ({"rotary_pct": 0.25}, {"rotary_pct": 1.0}, "rotary_pct"),
        ({"num_ln_in_parallel_attn": 2}, {"num_ln_in_parallel_attn": None}, None),
        ({"num_local_experts": 8}, {"num_experts": 4}, "num_experts"),
        ({"sliding_window": None}, {"sliding_window": 4096}, "sliding_window"),
        (
            {"sliding_window": None, "use_sliding_window": False},
            {"sliding_window": 4096, "use_sliding_window": True},
            "sliding_window",
        ),
        ({"text_config": {"rope_theta": 1e6}}, {"text_config": {"rope_theta": 1e4}}, "rope_theta"),
        ({"text_config": {"rope_theta": 1e6}}, {"rope_theta": 1e4}, "rope_theta"),
        ({"rope_theta": 1e6}, {"rope_parameters": {"rope_theta": 1e4}}, "rope_theta"),
        ({"rope_theta": 1e6, "rope_parameters": {"rope_theta": 1e4}}, {"rope_theta": 1e4}, None),
        ({"rope_theta": 1e4, "rope_scaling": YARN}, {"rope_theta": 1e4}, "rope_type"),
        ({"rope_theta": 1e4}, {"rope_theta": 1e4, "rope_scaling": LINEAR}, "rope_type"),
        ({"rope_scaling": YARN}, {"rope_scaling": LINEAR}, "rope_type"),
        ({"rope_scaling": YARN}, {"rope_scaling": {"type": "yarn", "factor": 2}}, None),
        ({"rope_scaling": {"type": "yarn"}}, {"rope_scaling": YARN}, "factor"),
        ({"rope_scaling": "yarn"}, {"rope_scaling": YARN}, "factor"),
        ({"rope_scaling": ["yarn"]}, {"rope_scaling": YARN}, "rope_type"),
        ({"rope_scaling": {"rope_type": ["a"]}}, {"rope_scaling": {"rope_type": ["b"]}}, "rope_type"),
        ({"partial_rotary_factor": 0.5}, {"rope_parameters": {"partial_rotary_factor": 0.25}}, "partial_rotary_factor"),
        (
            {"rope_parameters": {**NESTED, "sliding_attention": {"rope_theta": 1e5}}},
            {"rope_parameters": NESTED},
            "rope_parameters.sliding_attention.rope_theta",
        ),
        ({"rope_parameters": NESTED}, {"rope_theta": 1e6, "rope_local_base_freq": 1e4}, None),
        (
            {"rope_parameters": {**NESTED, "sliding_attention": {**LINEAR, "rope_theta": 1e4}}},
            {"rope_scaling": YARN},
            "rope_parameters.full_attention.rope_type",
        ),
        (
            {"rope_parameters": {"sliding_attention": LINEAR}},
            {"rope_scaling": {**LINEAR, "factor": 4.0}},
            "rope_parameters.sliding_attention.factor",
        ),
    ],
)
def test_configs_differ_in_what_a_forward_pass_follows_from(found: Config, booted: Config, field: str | None) -> None:
    difference = config_difference(found, booted, tied=False)

    assert (difference is None) == (field is None)
    assert difference is None or difference.startswith(f"{field} is ")
