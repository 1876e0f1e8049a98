"""A config that names its modules by a regular expression must match those that have tensors, as PEFT matches."""

from __future__ import annotations

import time
from typing import Any

import pytest
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists

from rollstream.schemas.weights.adapter_expressions import expressions_problem

PATHS = [
    "model.layers.0.self_attn.q_proj",
    "model.layers.11.mlp.up_proj",
    "model.language_model.layers.3.mlp.down_proj",
    "lm_head",
]
EXPRESSIONS = [
    r".*\.q_proj",
    "q_proj",
    r"model\.layers\.\d+\..*_proj",
    r"(?i).*LAYERS\.(0|11)\..*",
    r"(?!.*language_model).*proj",
    "lm_head|.*mlp.*",
    ".*",
    "",
]


def problem(module: str, **config: Any) -> str | None:
    return expressions_problem(config, [f"base_model.model.{module}.lora_{half}.weight" for half in "AB"])


@pytest.mark.parametrize("expression", EXPRESSIONS[:-1])
def test_an_expression_covers_what_peft_puts_an_adapter_on(expression: str) -> None:
    theirs = [bool(check_target_module_exists(LoraConfig(target_modules=expression), path)) for path in PATHS]

    assert [problem(path, target_modules=expression) is None for path in PATHS] == theirs


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_excludes_what_peft_leaves_out(expression: str) -> None:
    names = [path.rpartition(".")[2] for path in PATHS]
    config = LoraConfig(target_modules=names, exclude_modules=expression)
    theirs = [bool(check_target_module_exists(config, path)) for path in PATHS]

    assert [problem(path, target_modules=names, exclude_modules=expression) is None for path in PATHS] == theirs


@pytest.mark.parametrize("word", ["all-linear", "All-Linear"])
def test_pefts_word_for_all_linear_layers_is_no_expression(word: str) -> None:
    assert problem(PATHS[0], target_modules=word) is None


def test_the_first_module_that_is_left_out_is_named() -> None:
    names = [f"base_model.model.{path}.lora_A.weight" for path in PATHS]

    told = expressions_problem({"target_modules": r".*mlp.*|.*q_proj"}, names) or ""

    assert "module 'lm_head' has tensors, but target_modules='.*mlp.*|.*q_proj'" in told
    assert "PEFT would not apply them" in told


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("(", "target_modules='(' is no regular expression (missing )"),
        (r"\\q_proj)", "is no regular expression"),
        (r"([a-z0-9._]+)+!", "takes too long to match"),
        ("(" * 5000 + ")" * 5000, "is no regular expression"),
    ],
    ids=["unbalanced", "escaped", "endless", "deep"],
)
def test_what_cannot_be_matched_is_refused_in_time_with_what_to_do(expression: str, says: str) -> None:
    began = time.monotonic()

    told = problem(PATHS[1], target_modules=expression) or ""

    assert says in told
    assert "use a list" in told or "name the modules in a list" in told
    assert time.monotonic() - began < 15
