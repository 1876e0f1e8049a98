"""Which PEFT configs of LoRA adapters a worker applies exactly as PEFT does; all others are refused by name.

Both sides ask here: a producer before it publishes, a worker before its engine sees the adapter.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from ..errors import shown

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
MAX_ALPHA = 1e9

_MERGE = "train without it, or publish the merged model as a checkpoint"

# Options that vLLM refuses, or ignores without an error.
_UNSUPPORTED = {
    "use_dora": _MERGE,
    "modules_to_save": "whole modules do not travel with an adapter: train without them, or publish a checkpoint",
    "lora_bias": _MERGE,
    "rank_pattern": "train all modules with one rank",
    "alpha_pattern": "train all modules with one lora_alpha",
    "trainable_token_indices": _MERGE,
    "layer_replication": _MERGE,
    "target_parameters": "name modules in target_modules instead",
    "alora_invocation_tokens": _MERGE,
    "use_qalora": _MERGE,
    "use_bdlora": _MERGE,
    "arrow_config": _MERGE,
    "velora_config": _MERGE,
    "monteclora_config": _MERGE,
    "kasa_config": _MERGE,
    "ensure_weight_tying": _MERGE,
}

# Options that do not change what a trained adapter does, or that are checked below.
_KNOWN = frozenset({
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
    "fan_in_fan_out", "bias", "use_rslora", "init_lora_weights", "loftq_config", "eva_config", "corda_config",
    "lora_ga_config", "megatron_config", "megatron_core", "qalora_group_size", "runtime_config", "unsloth_fixed",
})  # fmt: skip

_KEEPS_THE_BASE = frozenset({"gaussian", "eva", "orthogonal", "mica"})
"""Initialisations that change only the adapter. Others also change the base model, which workers do not have then."""


def config_problem(config: Mapping[str, Any]) -> str | None:
    """Why a worker cannot apply such an adapter as PEFT does, and what to do; None if it can."""
    checks = (_kind, _numbers, _features, _initialisation, _targets, _unknown)
    return next((problem for check in checks if (problem := check(config)) is not None), None)


def scaling(config: Mapping[str, Any]) -> float:
    """The factor by which PEFT multiplies B A; the config must have no problem."""
    rank = config["r"]
    return float(config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank))


def is_target(config: Mapping[str, Any], module: str) -> bool:
    """Whether PEFT puts an adapter on `module`, a path in the model.

    True if only a regular expression could tell, see `schemas.weights.adapter_expressions`.
    """
    excluded, targets = config.get("exclude_modules"), config["target_modules"]
    if isinstance(excluded, list) and _named(excluded, module):
        return False
    if isinstance(targets, str) or module in targets:
        return True
    return _named(targets, module) and _in_layers(config, module)


def _kind(config: Mapping[str, Any]) -> str | None:
    if config.get("peft_type") != "LORA":
        return f"peft_type must be 'LORA', not {shown(config.get('peft_type'))}"
    return None


def _numbers(config: Mapping[str, Any]) -> str | None:
    rank, alpha, stabilised = config.get("r"), config.get("lora_alpha"), config.get("use_rslora")
    if type(rank) is not int or rank < 1:
        return f"r must be a positive integer, not {shown(rank)}"
    if type(alpha) not in {int, float} or not 0 < (alpha or 0) <= MAX_ALPHA:
        return f"lora_alpha must be a number above 0 and at most {MAX_ALPHA:g}, not {shown(alpha)}"
    if stabilised is not None and type(stabilised) is not bool:
        return f"use_rslora must be true or false, not {shown(stabilised)}: it decides how the adapter is scaled"
    return None


def _features(config: Mapping[str, Any]) -> str | None:
    if (bias := config.get("bias", "none")) != "none":
        return f"bias={shown(bias)} is not supported, only 'none': biases of the base model do not travel"
    for name, remedy in _UNSUPPORTED.items():
        if config.get(name):
            return f"{name} is not supported: {remedy}"
    return None


def _initialisation(config: Mapping[str, Any]) -> str | None:
    way = config.get("init_lora_weights")
    if way is None or isinstance(way, bool) or (isinstance(way, str) and way.lower() in _KEEPS_THE_BASE):
        return None
    return (
        f"init_lora_weights={shown(way)} changes the base model too, and workers have the unchanged one: save the "
        "adapter with save_pretrained(path_initial_model_for_weight_conversion=...), which makes it an ordinary one"
    )


def _targets(config: Mapping[str, Any]) -> str | None:
    targets = config.get("target_modules")
    if not targets or not (isinstance(targets, str) or _is_list_of_names(targets)):
        return "target_modules must name the modules that the adapter is on, as PEFT's save_pretrained writes it"
    excluded = config.get("exclude_modules")
    if excluded and not (isinstance(excluded, str) or _is_list_of_names(excluded)):
        return "exclude_modules must be a list of names or one text"
    return None


def _unknown(config: Mapping[str, Any]) -> str | None:
    known = _KNOWN | _UNSUPPORTED.keys()
    for name, value in config.items():
        if value and name not in known:
            return f"{shown(name)} is not known here: remove it if it changes nothing of what a trained adapter does"
    return None


def _is_list_of_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) and name for name in value)


def _named(names: list[str], module: str) -> bool:
    """Whether a name matches as in PEFT: the whole path, or its end after a dot."""
    parts = module.split(".")
    return not {".".join(parts[start:]) for start in range(len(parts))}.isdisjoint(names)


def _in_layers(config: Mapping[str, Any], module: str) -> bool:
    """Whether `layers_to_transform` includes the module's layer, whose number follows the name of a list of layers."""
    layers = config.get("layers_to_transform")
    if layers is None or layers == [] or config.get("layers_pattern"):
        return True
    found = re.match(r"[^.]+(?:\.[^.]+)*?\.(\d+)\.", module)
    return found is not None and int(found[1]) in (layers if isinstance(layers, list) else [layers])
