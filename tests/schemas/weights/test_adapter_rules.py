"""Configs and names of an adapter that no worker applies as PEFT does are refused by name, with what to do."""

from __future__ import annotations

from typing import Any

import pytest

from rollstream.schemas.weights.adapter_config import config_problem, is_target, scaling
from rollstream.schemas.weights.adapter_tensors import name_problem, pairs_problem, tensors_problem, unwrapped

PLAIN: dict[str, Any] = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none"}
MODULE = "model.layers.0.self_attn.q_proj"
A, B = f"base_model.model.{MODULE}.lora_A.weight", f"base_model.model.{MODULE}.lora_B.weight"
SHAPES = {A: ("F32", (4, 32)), B: ("F32", (16, 4))}

HARMLESS: list[dict[str, Any]] = [
    {},
    {"use_rslora": True, "fan_in_fan_out": True, "lora_dropout": 0.1, "inference_mode": True, "peft_version": "0.21.2"},
    {"rank_pattern": {}, "alpha_pattern": {}, "modules_to_save": None, "use_dora": False, "lora_bias": False},
    {"init_lora_weights": "gaussian"},
    {"init_lora_weights": "eva", "eva_config": {"rho": 2.0}},
    {"init_lora_weights": False},
    {"unsloth_fixed": True, "megatron_core": "megatron.core", "qalora_group_size": 16},
    {"some_field_of_a_later_peft": None},
    {"target_modules": r".*\.q_proj"},
]


@pytest.mark.parametrize("fields", HARMLESS, ids=str)
def test_a_config_that_means_plain_lora_is_taken(fields: dict[str, Any]) -> None:
    assert config_problem({**PLAIN, **fields}) is None


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"peft_type": "IA3"}, "peft_type must be 'LORA', not 'IA3'"),
    ({"r": 0}, "r must be a positive integer"),
    ({"r": True}, "r must be a positive integer"),
    ({"r": 8.0}, "r must be a positive integer"),
    ({"lora_alpha": 0}, "lora_alpha must be a number above 0"),
    ({"lora_alpha": -8}, "lora_alpha must be a number above 0"),
    ({"lora_alpha": float("nan")}, "lora_alpha must be a number above 0"),
    ({"lora_alpha": "16"}, "lora_alpha must be a number above 0"),
    ({"lora_alpha": None}, "lora_alpha must be a number above 0"),
    ({"use_rslora": "false"}, "use_rslora must be true or false"),
    ({"bias": "lora_only"}, "bias='lora_only' is not supported"),
    ({"use_dora": True}, "use_dora is not supported: train without it"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save is not supported"),
    ({"lora_bias": True}, "lora_bias is not supported"),
    ({"rank_pattern": {"q_proj": 8}}, "rank_pattern is not supported: train all modules with one rank"),
    ({"alpha_pattern": {"q_proj": 8}}, "alpha_pattern is not supported"),
    ({"trainable_token_indices": [1]}, "trainable_token_indices is not supported"),
    ({"layer_replication": [[0, 2]]}, "layer_replication is not supported"),
    ({"target_parameters": ["experts.gate_up_proj"]}, "target_parameters is not supported"),
    ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens is not supported"),
    ({"use_qalora": True}, "use_qalora is not supported"),
    *(
        ({"init_lora_weights": way}, "changes the base model too")
        for way in ("pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga", "PiSSA", 5)
    ),
    ({"target_modules": None}, "target_modules must name the modules"),
    ({"target_modules": []}, "target_modules must name the modules"),
    ({"target_modules": [5]}, "target_modules must name the modules"),
    ({"exclude_modules": [5]}, "exclude_modules must be"),
    ({"some_field_of_a_later_peft": 1}, "'some_field_of_a_later_peft' is not known here"),
]


@pytest.mark.parametrize(("fields", "says"), REFUSED, ids=str)
def test_any_other_config_is_refused_by_name(fields: dict[str, Any], says: str) -> None:
    assert says in (config_problem({**PLAIN, **fields}) or "taken")


def test_the_scale_is_pefts() -> None:
    assert scaling(PLAIN) == 2.0
    assert scaling({**PLAIN, "use_rslora": True}) == 4.0


NAMES: list[tuple[str, str]] = [
    (A.replace("model.layers", "_orig_mod.model.layers", 1), "'_orig_mod' (torch.compile)"),
    (f"_orig_mod.{A}", "'_orig_mod' (torch.compile)"),
    (A.replace("layers", "_fsdp_wrapped_module.layers"), "'_fsdp_wrapped_module' (FSDP)"),
    (A.replace("self_attn", "_checkpoint_wrapped_module.self_attn"), "'_checkpoint_wrapped_module'"),
    (f"module.{A}", "'module' (DistributedDataParallel or DeepSpeed)"),
    (A.replace("base_model.model.", "base_model.model.module."), "'module' (Distributed"),
    (f"base_model.model.{A}", "is of an adapter around another"),
    (A.removeprefix("base_model.model."), "does not begin with 'base_model.model.': take"),
    (A.replace("lora_A", "lora_A.default"), "holds the adapter's name, 'default'"),
    ("base_model.model.model.embed_tokens.lora_embedding_A", "adapters on embeddings are not supported"),
    ("base_model.model.lm_head.base_layer.weight", "save_embedding_layers=False"),
    (A.replace("lora_A.weight", "lora_magnitude_vector"), "DoRA is not supported"),
    (B.replace("weight", "bias"), "lora_bias, which is not supported"),
    ("base_model.model.score.modules_to_save.weight", "whole modules do not travel"),
    (A.replace("self_attn.q_proj", "mlp.experts.3.up_proj"), "'experts' (experts of a mixture)"),
    (A.replace("self_attn.q_proj", "mlp.gate"), "'gate' (the router of a mixture)"),
    (A.replace("q_proj", "kv_b_proj"), "'kv_b_proj'"),
    ("base_model.model.lora_A.weight", "names no module"),
    ("lora_A.weight", "is no LoRA weight"),
    ("a..lora_A.weight", "is no LoRA weight"),
    ("a\udc80.lora_A.weight", "is no LoRA weight"),
    ("", "is no LoRA weight"),
]


@pytest.mark.parametrize(("name", "says"), NAMES)
def test_a_name_that_no_module_of_the_model_has_is_refused(name: str, says: str) -> None:
    assert says in (name_problem(name) or "taken")


WRAPPED: dict[str, str] = {
    "torch.compile within PEFT": "base_model.model._orig_mod.model.layers.0.q_proj.lora_A.weight",
    "torch.compile around PEFT": "_orig_mod.base_model.model.model.layers.0.q_proj.lora_A.weight",
    "FSDP": "_fsdp_wrapped_module.base_model.model.model._fsdp_wrapped_module.layers.0.q_proj.lora_A.weight",
    "DDP": "module.base_model.model.model.layers.0.q_proj.lora_A.weight",
    "DDP within PEFT": "base_model.model.module.model.layers.0.q_proj.lora_A.weight",
    "several": "module._orig_mod.base_model.model.model.layers.0._checkpoint_wrapped_module.q_proj.lora_A.weight",
}


@pytest.mark.parametrize("how", WRAPPED)
def test_a_wrapped_name_is_known_without_its_wrappers(how: str) -> None:
    bare = "base_model.model.model.layers.0.q_proj.lora_A.weight"

    assert unwrapped(WRAPPED[how]) == bare
    assert f"rename it to '{bare}'" in (name_problem(WRAPPED[how]) or "taken")


@pytest.mark.parametrize("name", [A, "base_model.model.model.module.x.lora_A.weight", f"base_model.model.{A}", "x"])
def test_what_may_be_a_models_own_name_stays(name: str) -> None:
    assert unwrapped(name) == name


@pytest.mark.parametrize("path", ["model.layers.0.mlp.gate_proj", "lm_head", "model.language_model.layers.3.x", "h.0"])
def test_a_path_of_a_model_is_taken(path: str) -> None:
    assert name_problem(f"base_model.model.{path}.lora_A.weight") is None


TENSORS: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, SHAPES, ""),
    ({}, {}, "it has no tensors"),
    ({}, {**SHAPES, A: ("F32", (8, 32))}, "has shape [8, 32], which is not of rank 4"),
    ({}, {**SHAPES, B: ("F32", (4, 16))}, "has shape [4, 16], which is not of rank 4"),
    ({}, {**SHAPES, A: ("F32", (4, 0))}, "has shape [4, 0]"),
    ({}, {**SHAPES, A: ("F32", (4,))}, "has shape [4]"),
    ({}, {**SHAPES, A: ("I8", (4, 32))}, "is I8, not F32: cast it before saving"),
    ({"target_modules": ["k_proj"]}, SHAPES, "PEFT would not apply them"),
    ({"target_modules": ["proj"]}, SHAPES, "PEFT would not apply them"),
    ({"target_modules": ["self_attn.q_proj"]}, SHAPES, ""),
    ({"target_modules": [MODULE]}, SHAPES, ""),
    ({"target_modules": "all-linear"}, SHAPES, ""),
    ({"target_modules": ".*k_proj"}, SHAPES, ""),
    ({"exclude_modules": ["layers.0.self_attn.q_proj"]}, SHAPES, "PEFT would not apply them"),
    ({"layers_to_transform": [1]}, SHAPES, "PEFT would not apply them"),
    ({"layers_to_transform": 0}, SHAPES, ""),
    ({"layers_to_transform": [0, 1]}, SHAPES, ""),
]


@pytest.mark.parametrize(("fields", "tensors", "says"), TENSORS, ids=str)
def test_tensors_are_whole_pairs_that_the_config_speaks_of(
    fields: dict[str, Any], tensors: dict[str, Any], says: str
) -> None:
    found = tensors_problem({**PLAIN, **fields}, tensors, ("F32",))

    assert found is None if not says else says in (found or "taken")


def test_half_a_pair_is_told_with_its_module() -> None:
    assert pairs_problem(SHAPES) is None
    assert f"'{MODULE}' needs both lora_A and lora_B, and has lora_A alone" in (pairs_problem([A]) or "")
    assert "and has lora_B alone" in (pairs_problem([B]) or "")
    assert "2 of its 2 modules lack one" in (pairs_problem([A, B.replace("q_proj", "k_proj")]) or "")


def test_modules_are_targets_as_peft_finds_them() -> None:
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    paths = [MODULE, "model.layers.11.mlp.up_proj", "lm_head", "model.embed_tokens", "model.layers.1.q_proj.x"]
    configs: list[dict[str, Any]] = [
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["mlp.up_proj", "proj", "layers.1"]},
        {"target_modules": ["q_proj", "up_proj", "lm_head"], "layers_to_transform": [1, 11]},
        {"target_modules": ["q_proj", MODULE], "layers_to_transform": 3},
        {"target_modules": ["q_proj", "up_proj"], "exclude_modules": ["mlp.up_proj"]},
    ]
    for config in configs:
        theirs = [bool(check_target_module_exists(LoraConfig(**config), path)) for path in paths]
        assert [is_target({**PLAIN, **config}, path) for path in paths] == theirs, config
