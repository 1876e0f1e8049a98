"""What sampled ids say: text, a thought, calls, and why they ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import pytest

from rollstream.producer.gateway.chat import ChatFormat, Reply, checked_messages
from tests.support.chat.replies import CALLS, TOOLS, shattered

Formats = Callable[[str], ChatFormat]


def ids_of(form: ChatFormat, text: str) -> list[int]:
    return [*shattered(form, text), *form.tokenizer.convert_tokens_to_ids(list(form.ends[:1]))]


@pytest.mark.parametrize(
    ("family", "text", "content", "reasoning"),
    [
        ("chatml", "Grüße 🌦\n", "Grüße 🌦\n", None),
        ("chatml", "<think>a</think>b", "<think>a</think>b", None),
        ("qwen3", "<think>\na\nb\n</think>\n\nc\n", "c\n", "a\nb"),
        ("qwen3", "c", "c", None),
        ("qwen3", "<think>\na", "", "a"),
        ("deepseek-r1", "a\n</think>\n\nc", "c", "a"),
        ("deepseek-r1", "a", "", "a"),
        ("deepseek-r1", "\n<think>\na\n</think>\n\nc", "c", "a"),
        ("gpt-oss", "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>c", "c", "a"),
    ],
)
def test_thought_and_text(family: str, text: str, content: str, reasoning: str | None, formats: Formats) -> None:
    form = formats(family)
    prompt = form.whole([{"role": "user", "content": "q"}])

    reply = form.reply(ids_of(form, text), prompt=prompt)

    assert reply == Reply(content=content, reasoning=reasoning)


def test_calls_are_calls_only_where_there_are_tools(formats: Formats) -> None:
    form = formats("qwen2.5")
    ids = ids_of(form, CALLS["hermes"])

    assert form.reply(ids).content == CALLS["hermes"]
    assert form.reply(ids).finish_reason == "stop"
    assert form.reply(ids, TOOLS).finish_reason == "tool_calls"
    assert form.reply(ids, TOOLS, finish_reason="length").finish_reason == "length"


def test_ids_of_calls_repeat_with_their_seed_and_differ_otherwise(formats: Formats) -> None:
    form = formats("qwen2.5")
    ids = ids_of(form, CALLS["hermes"] * 2)

    once, again, other = (form.reply(ids, TOOLS, seed=seed) for seed in ("a", "a", "b"))

    assert once == again
    assert len({call.id for reply in (once, other) for call in reply.tool_calls}) == 4


@pytest.mark.parametrize(
    ("family", "name"),
    [("qwen2.5", "hermes"), ("llama3.1", "llama3"), ("mistral", "mistral"), ("gpt-oss", "harmony")],
)
def test_a_reply_with_a_call_is_a_message_that_its_template_takes(family: str, name: str, formats: Formats) -> None:
    form = formats(family)
    reply = form.reply(ids_of(form, CALLS[name]), TOOLS, seed="b:0")
    answer = {"role": "tool", "tool_call_id": reply.tool_calls[0].id, "content": "12"}

    messages = checked_messages([{"role": "user", "content": "q"}, reply.message(), answer])

    assert "Rom ü" in form.tokenizer.decode(form.whole(messages, TOOLS))


def test_a_stop_string_and_what_is_behind_it_are_not_said(formats: Formats) -> None:
    form = formats("chatml")

    assert form.reply(shattered(form, "a END. b END. "), stop="END.").content == "a END. b "
    assert form.reply(shattered(form, "a END. b END. "), stop="END.", keeps_stop=True).content == "a END. b END."


STOPS = [
    ("}", ["a", "}}"], "a"),
    ("\n", ["a", "\n\n"], "a"),
    ("aa", ["b", "aaa"], "b"),
    ("END", ["END", " b EN", "D END"], "END b "),
    ("日", ["日", "a", "日日"], "日a"),
    (" END", ["x END", " EN", "D"], "x END"),
]
"""A stop string, what each sampled token says, and the text before the stop. Earlier ones: see `min_tokens`."""


@pytest.mark.parametrize(("stop", "pieces", "said"), STOPS)
def test_the_first_stop_string_that_the_last_token_ends_is_where_text_ends(
    stop: str, pieces: list[str], said: str, formats: Formats
) -> None:
    tokenizer = deepcopy(formats("chatml").tokenizer)
    tokenizer.add_tokens(pieces)
    form = ChatFormat(tokenizer)
    ids = tokenizer.convert_tokens_to_ids(pieces)

    assert form.reply(ids, stop=stop).content == said
    assert form.reply(ids, stop=stop, keeps_stop=True).content == said + stop


def test_special_tokens_are_not_said(formats: Formats) -> None:
    form = formats("llama3.1")

    assert form.reply(shattered(form, "a<|end_of_text|>b")).content == "ab"


def test_a_call_that_stays_text_is_told(formats: Formats) -> None:
    form = formats("qwen2.5")

    reply = form.reply(ids_of(form, CALLS["hermes"].replace("weather", "wether")), TOOLS)

    assert reply.notes == ("a call of 'wether' stays text: there is no such tool",)
    assert "wether" in (reply.content or "")


def test_what_may_begin_one_of_many_special_tokens_is_read_at_once(formats: Formats) -> None:
    special = tuple(f"<{begin}{i}>" for begin in ("|reserved_", "s", "unused") for i in range(300))
    habits = replace(formats("chatml")._habits, special=special)

    begun = time.process_time()
    plain = habits.plain("<|" * 50_000 + special[7] + "a")
    took_s = time.process_time() - begun

    assert plain == "<|" * 50_000 + "a"
    assert took_s < 0.1
