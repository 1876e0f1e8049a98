"""Guides that would hold up the engine at each token are refused; those that people write pass."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rollstream.worker.engines.vllm.guided import guide_compiler, guides
from rollstream.worker.engines.vllm.guided.text_rules import choice_grammar

pytestmark = pytest.mark.vllm

CHAIN = " | ".join(" ".join("s" * count) for count in range(14, 1, -1))
JSON = r"""
root ::= value
value ::= object | array | string | number | "true" | "false" | "null"
object ::= "{" ws (pair ("," ws pair)*)? "}" ws
pair ::= string ":" ws value
array ::= "[" ws (value ("," ws value)*)? "]" ws
string ::= "\"" ([^"\\] | "\\" ["\\/bfnrt])* "\"" ws
number ::= "-"? [0-9]+ ("." [0-9]+)? ws
ws ::= [ \t\n]*
"""
TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "size": {"type": "integer"},
                "inner": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            },
            "required": ["name", "size", "inner"],
            "additionalProperties": False,
        }
    },
}
USUAL = [
    ("regex", "[a-z]+(-[a-z]+)*"),
    ("regex", "(a|b)*abb"),
    ("regex", ".*"),
    ("regex", "[a-c]{400}x"),
    ("grammar", choice_grammar(["yes", "no"])),
    ("json", json.dumps(TREE)),
    ("json", '{"type": "object"}'),
    ("json", "{}"),
    ("grammar", JSON),
    ("grammar", 'root ::= (line "\\n")*\nline ::= [^\\n]*'),
    ("grammar", 'root ::= t (("+"|"-") t)*\nt ::= f (("*"|"/") f)*\nf ::= [0-9]+ | "(" root ")"'),
    ("grammar", 'root ::= root "+" t | t\nt ::= t "*" f | f\nf ::= [0-9]+ | "(" root ")"'),
]
SLOW = [
    ("grammar", f'root ::= s\ns ::= {CHAIN} | "a"'),
    ("grammar", 'root ::= s\ns ::= s s | "a"'),
    ("grammar", 'root ::= s\ns ::= s s s | s s | "a" | "b"'),
    ("grammar", 'root ::= ("x" | "y" | "z") s\ns ::= s s | "a"'),
]


@pytest.fixture(scope="module")
def verdicts(tiny_model: Path) -> Callable[[list[tuple[str, Any]]], list[str]]:
    import xgrammar
    from transformers import AutoTokenizer

    tokenizer = xgrammar.TokenizerInfo.from_huggingface(AutoTokenizer.from_pretrained(tiny_model), vocab_size=512)
    limits = {**guides.LIMITS, "tokenizer": tokenizer.serialize_json()}

    def ask(asked: list[tuple[str, Any]]) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-P", guide_compiler.__file__],
            input="".join(f"{json.dumps(line)}\n" for line in (limits, *asked)),
            capture_output=True,
            text=True,
            timeout=240,
            check=True,
        )
        return [json.loads(line) for line in done.stdout.splitlines()]

    return ask


def test_guides_that_people_write_pass(verdicts: Callable[[list[tuple[str, Any]]], list[str]]) -> None:
    assert dict(zip(map(str, USUAL), verdicts(USUAL), strict=True)) == dict.fromkeys(map(str, USUAL), "")


def test_guides_whose_tokens_cost_more_and_more_are_refused(
    verdicts: Callable[[list[tuple[str, Any]]], list[str]],
) -> None:
    for guide, said in zip(SLOW, verdicts(SLOW), strict=True):
        assert "make its rules unambiguous" in said, guide


@pytest.mark.parametrize(
    ("costs", "said"),
    [
        ([0.00001] * 2048, ""),
        ([0.2, *[0.00001] * 200], ""),
        ([0.01] * 10, ""),
        ([0.002] * 1024, "too long at each token"),
        ([place**2 * 3e-10 for place in range(2048)], "the longer the text is"),
    ],
)
def test_the_cost_of_tokens_is_judged_by_its_end_and_its_growth(costs: list[float], said: str) -> None:
    assert said in guide_compiler.slow(costs)
    assert bool(said) == bool(guide_compiler.slow(costs))
