"""Compare two config.json: do they mean the same forward pass, whatever version of transformers wrote them?

A field that only one of them has is not compared, because versions differ in the defaults that they write.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Fields that decide the forward pass. vLLM keeps those of its boot model, whatever a later config.json says.
_ARCHITECTURE = (
    "architectures", "model_type", "vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size",
    "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act", "rms_norm_eps",
    "sliding_window", "use_sliding_window", "layer_types", "num_experts", "num_experts_per_tok", "tie_word_embeddings",
    "quantization_config",
    # Other names for the same, in some families.
    "n_embd", "n_head", "n_layer", "n_inner", "activation_function", "hidden_activation", "layer_norm_eps",
    "layer_norm_epsilon", "norm_eps", "attention_bias", "mlp_bias", "use_bias", "use_qk_norm", "qk_layernorm",
    # Numbers with which a forward pass multiplies, or at which it stops.
    "final_logit_softcapping", "attn_logit_softcapping", "query_pre_attn_scalar", "logit_scale", "logits_scaling",
    "attention_multiplier", "residual_multiplier", "embedding_multiplier", "scale_emb", "scale_depth", "dim_model_base",
    "clip_qkv", "scale_attn_weights", "scale_attn_by_inverse_layer_idx", "parallel_attn", "alibi",
    "attn_temperature_tuning", "floor_scale", "attn_scale", "attention_chunk_size", "no_rope_layers",
    "no_rope_layer_interval", "rope_interleave", "rotary_pct", "rotary_emb_base", "rotary_dim",
    "position_embedding_type", "swiglu_limit", "mup_enabled",
    # What is normalised, added or shared where; these do not change the tensors.
    "use_parallel_residual", "apply_residual_connection_post_layernorm", "do_layer_norm_before",
    "_remove_final_layer_norm", "new_decoder_architecture", "num_ln_in_parallel_attn", "multi_query", "num_kv_heads",
    "num_kv_shared_layers", "layer_norm_elementwise_affine", "norm_head", "sliding_window_pattern",
    "attention_k_eq_v", "activation_sparsity_pattern", "ffn_dim", "word_embed_proj_dim",
    # Which experts a token goes to, and latent attention.
    "norm_topk_prob", "routed_scaling_factor", "scoring_func", "topk_method", "n_group", "topk_group",
    "n_routed_experts", "n_shared_experts", "shared_expert_intermediate_size", "first_k_dense_replace",
    "decoder_sparse_step", "mlp_only_layers", "moe_layer_freq", "moe_k", "top_k_experts", "moe_num_experts",
    "num_shared_experts", "moe_num_shared_experts", "route_scale", "route_norm", "score_func",
    "q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim",
    "v_head_dim",
)  # fmt: skip

# If these are null they are derived from others, and a later save writes the derived values.
_DERIVED = (
    "head_dim", "num_key_value_heads", "num_kv_heads", "num_ln_in_parallel_attn", "activation_sparsity_pattern",
    "tie_word_embeddings", "hidden_activation", "n_inner",
)  # fmt: skip

_Rope = dict[str, dict[str, Any]]
"""Layer type ("" if all layers share one) to the parameters of its rotary embedding."""

_ROPE_FIELDS = ("rope_theta", "rope_scaling", "rope_parameters", "rope_local_base_freq", "partial_rotary_factor")
_ROPE_TYPES = {"su": "longrope", "mrope": "default"}
"""Old names of types."""
_FULL, _SLIDING = "full_attention", "sliding_attention"


def language_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The language model's part. For a model that also sees, some transformers versions put it into `text_config`."""
    text = config.get("text_config")
    if not isinstance(text, dict):
        return dict(config)
    whole = {field: config[field] for field in ("architectures", "model_type") if field in config}
    return {**config, **text, **whole}


def config_difference(found: Mapping[str, Any], booted: Mapping[str, Any], *, tied: bool | None) -> str | None:
    """The first architecture field that both have and that differs, as a sentence; None if none differs.

    `tied`: whether the output layer is the embedding, if `booted` does not say; None: do not compare that.
    """
    one, other = language_config(found), language_config(booted)
    new, old = _architecture(one), {"tie_word_embeddings": tied, **_architecture(other)}
    if tied is None:
        del old["tie_word_embeddings"]
    for field in _ARCHITECTURE:
        if field in new and field in old and new[field] != old[field]:
            return _told(field, new[field], old[field])
    return _rope_difference(_rope(one), _rope(other))


def _architecture(config: Mapping[str, Any]) -> dict[str, Any]:
    fields = {field: value for field, value in config.items() if value is not None or field not in _DERIVED}
    if "num_local_experts" in fields:
        fields.setdefault("num_experts", fields["num_local_experts"])
    if fields.get("use_sliding_window") is False:
        fields["sliding_window"] = None  # its value has no effect, and transformers 5 writes null
    if fields.get("model_type") == "gemma" and fields.get("hidden_act") == "gelu":
        fields["hidden_act"] = "gelu_pytorch_tanh"  # for this model "gelu" always meant that
    return fields


def _rope(config: Mapping[str, Any]) -> _Rope:
    """Parameters of the rotary embedding by layer type; empty if the config has none."""
    if not any(field in config for field in _ROPE_FIELDS):
        return {}
    shared = {field: config.get(field) for field in ("rope_theta", "partial_rotary_factor")}
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(scaling, dict):
        scaling = {"rope_type": scaling}
    nested = {layer: found for layer, found in scaling.items() if isinstance(found, dict)}
    if nested:
        return {layer: _parameters({**shared, **found}) for layer, found in nested.items()}
    whole = _parameters({**shared, **scaling})
    if (local := config.get("rope_local_base_freq")) is None:
        return {"": whole}
    return {_FULL: whole, _SLIDING: _parameters({**shared, "rope_theta": local})}


def _parameters(found: Mapping[str, Any]) -> dict[str, Any]:
    kind = found.get("rope_type") or found.get("type") or "default"
    named = {name: value for name, value in found.items() if value is not None and name != "type"}
    return {**named, "rope_type": _ROPE_TYPES.get(kind, kind) if isinstance(kind, str) else kind}


def _rope_difference(found: _Rope, booted: _Rope) -> str | None:
    for layer in sorted(found.keys() | booted.keys()):
        new, old = _of_layer(found, layer, booted), _of_layer(booted, layer, found)
        for name in sorted(_comparable(new, old), key=lambda name: (name != "rope_type", name)):
            if new.get(name) != old.get(name):
                where = f"rope_parameters.{layer}.{name}" if layer else name
                return _told(where, new.get(name), old.get(name))
    return None


def _of_layer(rope: _Rope, layer: str, other: _Rope) -> dict[str, Any]:
    """Parameters for one layer type. If only the other config names types, scaling may concern full layers only."""
    if layer in rope:
        return rope[layer]
    whole = rope.get("", {})
    if layer == _FULL or other.get(layer, {}).get("rope_type") != "default":
        return whole
    return {name: value for name, value in whole.items() if name == "rope_theta"}


def _comparable(new: Mapping[str, Any], old: Mapping[str, Any]) -> set[str]:
    both = new.keys() & old.keys()
    scaled = "rope_type" in both and old["rope_type"] not in ("default", "longrope")
    return both | ({"factor"} & (new.keys() | old.keys()) if scaled else set())


def _told(field: str, new: object, old: object) -> str:
    return f"{field} is {new!r}, the worker's model has {old!r}: publish the same model"
