"""The shapes of the small models that stand for their families, as fields of transformers' configs."""

from __future__ import annotations

from typing import Any

from benchmarks.engine.families import FAMILIES as MEASURED
from benchmarks.engine.families import SHAPE

VOCABULARY: int = SHAPE["vocab_size"]
PAD, BOS, EOS, SECOND_EOS, SPOKEN_EOS = 0, 1, 2, 7, 3
"""config.json names `EOS`, generation_config.json `SECOND_EOS` beside it, and the tokenizer `SPOKEN_EOS`."""

_WINDOW: dict[str, Any] = {"sliding_window": 32}
"""Shorter than what is scored, so that tokens leave the window."""
_MIXED: dict[str, Any] = {**_WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
_EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2}
_SMALL: dict[str, Any] = {"moe_intermediate_size": 64, **_EXPERTS}
_NO_GROUPS: dict[str, Any] = {"n_group": 1, "topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 1}
_LATENT: dict[str, Any] = {
    "num_key_value_heads": 2, "head_dim": 64, "kv_lora_rank": 512, "q_lora_rank": None, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128, **_SMALL, **_NO_GROUPS,
}  # fmt: skip
"""Multi-head latent attention, whose kernels know the sizes of the real models alone."""
_LINEAR: dict[str, Any] = {
    "linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 32, "linear_value_head_dim": 32,
    "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip

_WITH: dict[str, dict[str, Any]] = {
    "Gemma 2": _MIXED, "Gemma 3": _MIXED, "Mistral": _WINDOW,
}  # fmt: skip

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (kind, {**fields, **_WITH.get(name, {})}) for name, (kind, fields) in MEASURED.items()},
    "Gemma": ("gemma", {}),
    "OLMo 3": ("olmo3", _MIXED),
    "GLM-4": ("glm4", {"partial_rotary_factor": 0.5}),
    "Cohere 2": ("cohere2", _MIXED),
    "StableLM": ("stablelm", {}),
    "Phi": ("phi", {}),
    "EXAONE 4": ("exaone4", _MIXED),
    "Nemotron": ("nemotron", {}),
    "Qwen2-MoE": (
        "qwen2_moe",
        {**_SMALL, "num_experts": 4, "decoder_sparse_step": 1, "mlp_only_layers": [],
         "shared_expert_intermediate_size": 64},
    ),
    "OLMoE": ("olmoe", {**_EXPERTS, "num_experts": 4, "intermediate_size": 64}),
    "Granite MoE": ("granitemoe", {**_EXPERTS, "num_local_experts": 4, "intermediate_size": 64}),
    "GLM-4 MoE": ("glm4_moe", {**_SMALL, **_NO_GROUPS, "n_routed_experts": 4, "partial_rotary_factor": 0.5}),
    "gpt-oss": ("gpt_oss", {**_EXPERTS, **_MIXED, "num_local_experts": 4, "intermediate_size": 64}),
    "Llama 4": (
        "llama4_text",
        {"num_experts_per_tok": 1, "num_local_experts": 4, "intermediate_size": 64, "intermediate_size_mlp": 128,
         "attention_chunk_size": 256},
    ),
    "DeepSeek-V2": ("deepseek_v2", {**_LATENT, "n_routed_experts": 4, "topk_method": "greedy"}),
    "DeepSeek-V2, YaRN": (
        "deepseek_v2",
        {**_LATENT, "n_routed_experts": 4, "topk_method": "greedy",
         "rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "beta_fast": 32, "beta_slow": 1,
                             "original_max_position_embeddings": 128, "mscale": 0.707, "mscale_all_dim": 0.707}},
    ),
    "DeepSeek-V3": ("deepseek_v3", {**_LATENT, "n_routed_experts": 4, "topk_method": "noaux_tc"}),
    "Qwen3-Next": (
        "qwen3_next",
        {**_SMALL, **_LINEAR, "num_experts": 4, "decoder_sparse_step": 1, "mlp_only_layers": [],
         "shared_expert_intermediate_size": 64},
    ),
    "LFM2": (
        "lfm2",
        {"conv_dim": 64, "block_dim": 64, "layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    ),
    "Falcon-H1": (
        "falcon_h1",
        {"mamba_d_ssm": 64, "mamba_n_heads": 2, "mamba_d_head": 32, "mamba_n_groups": 1, "mamba_d_state": 16,
         "mamba_chunk_size": 16},
    ),
    "Mamba": ("mamba", {"state_size": 16}),
}  # fmt: skip
"""`model_type` and what differs from `SHAPE`."""

GPT2: dict[str, Any] = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 512}
