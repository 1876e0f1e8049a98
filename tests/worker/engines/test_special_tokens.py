"""Texts show no special token, but for those of a stop string that was asked to stay."""

from __future__ import annotations

import pytest

from rollstream.worker.engines.special_tokens import visible_text

SPECIAL = {2: "<eos>", 3: "<|im_end|>"}


@pytest.mark.parametrize(
    ("text", "tokens", "kept", "expected"),
    [
        ("plain", [10, 11], None, "plain"),
        ("a<eos>b<|im_end|>c", [10, 2, 11, 3, 12], None, "abc"),
        ("a<eos><eos>b", [10, 2, 2, 11], None, "ab"),
        ("a<eos>b", [10, 11, 12], None, "a<eos>b"),
        ("a", [10, 2], None, "a"),
        ("a<|im_end|>", [10, 3], "<|im_end|>", "a<|im_end|>"),
        ("a<eos>b<|im_end|>", [10, 2, 11, 3], "<|im_end|>", "ab<|im_end|>"),
        ("a<eos>b<eos>", [10, 2, 11, 2], "b<eos>", "ab<eos>"),
        ("a<eo", [10, 2], None, "a<eo"),
        ("", [2], None, ""),
    ],
    ids=[
        "none", "two", "twice", "letters that look like one", "left out already", "kept", "one before the kept",
        "kept with text", "cut within", "nothing else",
    ],
)  # fmt: skip
def test_special_tokens_stay_out_of_texts(text: str, tokens: list[int], kept: str | None, expected: str) -> None:
    assert visible_text(text, tokens, SPECIAL, kept) == expected
