"""A call that is wanted is forced by a grammar whose every text is read as a call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rollstream.producer.gateway.chat import ChatFormat, ChatRequestError
from tests.support.chat.replies import CALLS, TOOLS

Formats = Callable[[str], ChatFormat]
WEATHER = {"type": "function", "function": {"name": "weather"}}


def accepts(grammar: str | None, text: str) -> bool:
    xgrammar = pytest.importorskip("xgrammar")
    from xgrammar.testing import _is_grammar_accept_string

    return bool(_is_grammar_accept_string(xgrammar.Grammar.from_ebnf(grammar), text))


@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_nothing_is_forced_unless_it_is_wanted(choice: object, formats: Formats) -> None:
    assert formats("qwen2.5").forced_call(choice, TOOLS) is None


@pytest.mark.parametrize(("family", "parser"), [("qwen2.5", "hermes"), ("qwen3", "hermes"), ("llama3.1", "llama3")])
@pytest.mark.parametrize("choice", ["required", WEATHER], ids=["required", "named"])
def test_a_forced_reply_is_a_call(family: str, parser: str, choice: object, formats: Formats) -> None:
    form = formats(family)

    guide = form.forced_call(choice, TOOLS)

    assert guide is not None
    assert accepts(guide.grammar, CALLS[parser])
    assert accepts(guide.grammar, f"<think>\na <b>\n</think>\n\n{CALLS[parser]}") is form.thinks
    assert not accepts(guide.grammar, "Fine.")
    assert not accepts(guide.grammar, CALLS[parser].replace("weather", "wether"))
    two = f"{CALLS[parser]}\n{CALLS[parser]}"
    assert accepts(guide.grammar, two) is (choice == "required" and parser == "hermes")


def test_a_thought_that_the_prompt_begins_must_end_first(tmp_path: Any) -> None:
    from tests.support.chat.tokenizers import saved

    folder = saved("qwen3", tmp_path)
    config = (folder / "tokenizer_config.json").read_text()
    (folder / "tokenizer_config.json").write_text(
        config.replace(
            "'<|im_start|>assistant\\\\n' }}\\n    {%- if enable",
            "'<|im_start|>assistant\\\\n<think>\\\\n' }}\\n    {%- if enable",
        )
    )

    guide = ChatFormat.of(folder).forced_call("required", TOOLS)

    assert guide is not None
    assert accepts(guide.grammar, f"I look.\n</think>\n\n{CALLS['hermes']}")
    assert not accepts(guide.grammar, CALLS["hermes"])


@pytest.mark.parametrize(
    ("choice", "tools", "param"),
    [
        ("required", [], "tool_choice"),
        ("always", TOOLS, "tool_choice"),
        ({"type": "function"}, TOOLS, "tool_choice.function"),
        ({"type": "function", "function": {"name": "wether"}}, TOOLS, "tool_choice.function.name"),
        ({"type": "custom"}, TOOLS, "tool_choice"),
    ],
)
def test_what_cannot_be_forced_is_refused(choice: object, tools: list[Any], param: str, formats: Formats) -> None:
    with pytest.raises(ChatRequestError) as caught:
        formats("qwen2.5").forced_call(choice, tools)

    assert caught.value.param == param


@pytest.mark.parametrize("family", ["mistral", "gpt-oss"])
def test_calls_of_special_tokens_cannot_be_forced(family: str, formats: Formats) -> None:
    with pytest.raises(ChatRequestError, match="cannot be forced"):
        formats(family).forced_call("required", TOOLS)
