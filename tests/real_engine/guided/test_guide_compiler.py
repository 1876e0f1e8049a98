"""The process that compiles guides answers every one within its bounds, and goes on with the next."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rollstream.worker.engines.vllm.guided import guide_compiler
from rollstream.worker.engines.vllm.guided.text_rules import choice_grammar

pytestmark = pytest.mark.vllm

SLOW = "(a|b|ab)*" * 2000


def test_a_guide_that_takes_too_long_is_answered_and_the_next_one_compiles(tiny_model: Path) -> None:
    import xgrammar
    from transformers import AutoTokenizer

    tokenizer = xgrammar.TokenizerInfo.from_huggingface(AutoTokenizer.from_pretrained(tiny_model), vocab_size=512)
    limits = {"cpu_s": 0.2, "wall_s": 60, "read_s": 0.1, "memory": 2**30, "tokenizer": tokenizer.serialize_json()}
    guides = [("regex", SLOW), ("grammar", "root ::= " + "(" * 20_000 + '"a"' + ")" * 20_000), ("regex", "a")]
    lines = "".join(f"{json.dumps(line)}\n" for line in (limits, *guides))

    done = subprocess.run(
        [sys.executable, "-P", guide_compiler.__file__],
        input=lines,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )

    slow, deep, fine = map(json.loads, done.stdout.splitlines())
    assert "too long" in slow
    assert "exceeded" in deep
    assert fine == ""


def test_choices_are_taken_letter_by_letter() -> None:
    assert choice_grammar(['a"b', "c\n\\"]) == 'root ::= "a\\"b" | "c\\u000a\\\\"'
