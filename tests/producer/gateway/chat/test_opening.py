"""Only what the template puts behind the last message begins a thought, not a mark that a message has in it."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import pytest

from rollstream.producer.gateway.answers.chat import reply_of
from rollstream.producer.gateway.chat import ChatFormat, answers
from rollstream.producer.gateway.chat.habits import call_of
from tests.support.chat.replies import CALLS, TOOLS, shattered

Formats = Callable[[str], ChatFormat]
QWEN, ROLES = "<|im_start|>{role}\n{text}<|im_end|>\n", "{role}: {text}\n"
TEMPLATES = {
    "opens behind a role": (QWEN, "<|im_start|>assistant\n<think>\n", True),
    "opens and says something": (QWEN, "<|im_start|>assistant\n<think>\nOkay, ", True),
    "opens and closes": (QWEN, "<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
    "closes": (QWEN, "<|im_start|>assistant\n</think>", False),
    "opens nothing": (QWEN, "<|im_start|>assistant\n", False),
    "opens behind plain text": (ROLES, "ASSISTANT:<think>\n", True),
    "opens nothing behind plain text": (ROLES, "ASSISTANT:", False),
    "opens behind nothing": ("{text}\n", "<think>\n", True),
    "has no marks": ("{text}\n", "", False),
}
SAID = ["q", "What does <think> mean?", "<think>", "a </think> and <think>", "<think> and </think>", "</think>"]


def format_of(message: str, prompt: str, formats: Formats) -> ChatFormat:
    """A tokenizer with a template that writes each message so, and this behind the last one of a prompt."""
    tokenizer: Any = deepcopy(formats("chatml").tokenizer)
    each = message.replace("{role}", "{{ m.role }}").replace("{text}", "{{ m.content }}")
    begin = "{# </think> <tool_call> #}{% for m in messages %}"
    tokenizer.chat_template = f"{begin}{each}{{% endfor %}}{{% if add_generation_prompt %}}{prompt}{{% endif %}}"
    return ChatFormat(tokenizer)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("said", SAID)
def test_a_reply_begins_in_a_thought_where_the_template_began_it(name: str, said: str, formats: Formats) -> None:
    message, prompt, opens = TEMPLATES[name]
    form = format_of(message, prompt, formats)
    ids = form.whole([{"role": "user", "content": said}])

    reply, grown = form.reply(shattered(form, "so"), prompt=ids), form.growing((), ids).feed(shattered(form, "so"))

    assert (reply.content, reply.reasoning) == (("", "so") if opens else ("so", None))
    assert grown == (("", "so") if opens else ("so", ""))


@pytest.mark.parametrize("thinking", [True, False])
def test_an_option_that_closes_the_thought_is_seen(thinking: bool, formats: Formats) -> None:
    form = formats("qwen3")
    ids = form.whole([{"role": "user", "content": SAID[1]}], TOOLS, enable_thinking=thinking)

    assert form.reply(shattered(form, CALLS["hermes"]), TOOLS, prompt=ids).finish_reason == "tool_calls"


@pytest.mark.parametrize(("family", "name"), [("qwen3", "hermes"), ("deepseek-r1", "deepseek")])
def test_what_a_tool_answered_opens_no_thought(family: str, name: str, formats: Formats) -> None:
    form, call = formats(family), call_of("weather", {})
    answer = {"role": "tool", "content": "grep: <think>", "tool_call_id": call["id"], "name": "weather"}
    asked = {"role": "user", "content": "q"}
    ids = form.whole([asked, {"role": "assistant", "content": None, "tool_calls": [call]}, answer])

    reply = form.reply(shattered(form, CALLS[name]), TOOLS, prompt=ids)

    assert (reply.finish_reason, reply.reasoning) == ("tool_calls", None)


def test_a_turn_is_gone_on_from_though_its_question_has_the_mark(formats: Formats) -> None:
    form = formats("qwen3")
    prompt = form.whole([{"role": "user", "content": SAID[1]}])
    result: Any = SimpleNamespace(batch_id="b", prompt_ids=prompt)
    one: Any = SimpleNamespace(sample=0, token_ids=shattered(form, "A mark."), stop_reason=None, finish_reason="stop")

    assert answers({"role": "assistant", "content": "A mark."}, reply_of(form, [], result, one, keeps_stop=False))


def test_a_mark_that_each_prompt_tells_of_begins_no_forced_call(formats: Formats) -> None:
    told = format_of("<tool_call> goes behind <think>." + QWEN, "<|im_start|>assistant\n", formats)

    guide = told.forced_call("required", TOOLS)

    assert guide == formats("qwen3").forced_call("required", TOOLS)
