"""What follows a sampled reply is what the template puts there, and the sampled ids stay as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rollstream.producer.gateway.chat import ChatFormat, Reply, checked_messages, checked_tools
from tests.support.chat.tokenizers import saved

CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = checked_tools([{"type": "function", "function": {"name": "weather", "description": "w", "parameters": CITY}}])


def chat_format(family: str, tmp_path: Path) -> ChatFormat:
    return ChatFormat.of(saved(family, tmp_path / family))


def text_of(form: ChatFormat, ids: list[int]) -> str:
    return str(form.tokenizer.decode(ids, skip_special_tokens=False))


def rendered(form: ChatFormat, messages: list[Any], tools: list[Any]) -> str:
    return str(
        form.tokenizer.apply_chat_template(messages, tools=tools or None, add_generation_prompt=True, tokenize=False)
    )


@pytest.mark.parametrize("family", ["chatml", "qwen2.5"])
@pytest.mark.parametrize("said", ["hello there", "", "Grüße 🌦 日本", "a\n\nb  ", "12 degrees\n"])
@pytest.mark.parametrize("ends", [True, False])
def test_the_whole_is_what_the_template_renders(family: str, said: str, ends: bool, tmp_path: Path) -> None:
    form = chat_format(family, tmp_path)
    asked = checked_messages([{"role": "system", "content": "s"}, {"role": "user", "content": "hello"}])
    history = [*asked, {"role": "assistant", "content": said}]
    new = checked_messages([{"role": "user", "content": "\nand ü? "}])
    sampled = list(form.tokenizer(said, add_special_tokens=False)["input_ids"])
    sampled += [form.tokenizer.eos_token_id] if ends else []

    following = form.following(history, new, ended=form.ended(sampled))

    assert form.ended(sampled) is ends
    assert text_of(form, form.whole(asked) + sampled + following) == rendered(form, [*history, *new], [])


def test_a_call_and_its_answers_follow_each_other(tmp_path: Path) -> None:
    form = chat_format("qwen2.5", tmp_path)
    asked = checked_messages([{"role": "user", "content": "weather in Paris and Rome?"}])
    cities = ("Paris", "Rome")
    said = "\n".join(
        f'<tool_call>\n{{"name": "weather", "arguments": {{"city": "{city}"}}}}\n</tool_call>' for city in cities
    )
    sampled = [*form.tokenizer(said, add_special_tokens=False)["input_ids"], form.tokenizer.eos_token_id]
    reply = form.reply(sampled, TOOLS, seed="b:0")
    answers = [{"role": "tool", "tool_call_id": call.id, "content": f"{call.name} fine"} for call in reply.tool_calls]
    messages = checked_messages([*asked, reply.message(), *answers])

    following = form.following(messages[:2], messages[2:], TOOLS, ended=True)

    assert reply == Reply(content=None, tool_calls=reply.tool_calls, finish_reason="tool_calls")
    assert [call.arguments for call in reply.tool_calls] == ['{"city": "Paris"}', '{"city": "Rome"}']
    assert text_of(form, form.whole(asked, TOOLS) + sampled + following) == rendered(form, messages, TOOLS)
