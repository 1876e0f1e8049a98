"""What is sent of a reply while it grows is what the whole reply begins with, and none of it is half a character."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from rollstream.producer.gateway.chat import ChatFormat, Reply, ReplyChangedError
from tests.support.chat.replies import CALLS, TOOLS, shattered

Formats = Callable[[str], ChatFormat]
SPECIAL = "<\uff5cUser\uff5c>"
THOUGHT = "<think>\nWhat is\n\n<b>asked</b>?\n</think>\n\n"
REPLIES = {
    "text": ("chatml", "Grüße 🌦 <|im and <thin 日本\n\n"),
    "empty": ("chatml", ""),
    "text that is no call": ("qwen2.5", "  a <tool_ call> \n and <tool"),
    "a call": ("qwen2.5", CALLS["hermes"]),
    "text and a call": ("qwen2.5", f"I look. \n\n{CALLS['hermes']}\n{CALLS['hermes']} \n"),
    "a call that is none": ("qwen2.5", "I look.\n<tool_call>\n{}</tool_call>\n"),
    "a thought": ("qwen3", f"{THOUGHT}Fine 🌦.\n"),
    "a thought and a call": ("qwen3", f"{THOUGHT}I look.\n{CALLS['hermes']}"),
    "a thought without end": ("qwen3", "<think>\nWhat </thin\n"),
    "spaces before a thought": ("qwen3", f"\n{THOUGHT}Fine."),
    "no thought": ("qwen3", "<thing>"),
    "a call of Llama": ("llama3.1", CALLS["llama3"]),
    "an object in a text": ("llama3.1", ' so {"a": 1} is it'),
    "a call of Mistral": ("mistral", CALLS["mistral"]),
    "inside a thought": ("deepseek-r1", "What?\n</think>\n\nFine."),
    "spaces inside a thought": ("deepseek-r1", " \n\n What?\n</think>\n\nFine."),
    "a thought that is begun again": ("deepseek-r1", f" \n{THOUGHT}Fine."),
    "a thought that is begun again and again": ("deepseek-r1", f"<think><think>{THOUGHT}Fine."),
    "a special token before lines": ("qwen3", "<think>\n<|endoftext|>\n\nWhat?</think>\n<|endoftext|>\n\nFine."),
    "a special token before lines of an open thought": ("deepseek-r1", f"{SPECIAL}\n\nWhat?"),
    "a special token before a call": ("qwen2.5", f"I look. \n<|endoftext|> <|im_start|>{CALLS['hermes']}"),
    "half a beginning inside a thought": ("deepseek-r1", "\n<thi"),
}


def sent_of(form: ChatFormat, ids: list[int], prompt: list[int], rng: random.Random) -> tuple[str, str, Reply]:
    """Content and thought as they came, in pieces of any length, and the whole reply."""
    growing, left = form.growing(TOOLS, prompt), list(ids)
    content = reasoning = ""
    while left:
        many = rng.randint(1, 5)
        delta = growing.feed(left[:many])
        left = left[many:]
        assert "\ufffd" not in delta.content + delta.reasoning
        content, reasoning = content + delta.content, reasoning + delta.reasoning
    reply = form.reply(ids, TOOLS, prompt=prompt)
    rest = growing.rest(reply)
    return content + rest.content, reasoning + rest.reasoning, reply


@pytest.mark.parametrize("name", REPLIES)
@pytest.mark.parametrize("ended", [True, False])
def test_the_pieces_are_the_whole_reply(name: str, ended: bool, formats: Formats) -> None:
    family, text = REPLIES[name]
    form, rng = formats(family), random.Random(name)
    prompt = form.whole([{"role": "user", "content": "q"}])
    ids = shattered(form, text) + (sorted(form.end_ids)[:1] if ended else [])

    for _ in range(8):
        content, reasoning, reply = sent_of(form, ids, prompt, rng)

        assert content == (reply.content or "")
        assert reasoning == (reply.reasoning or "")


def test_text_is_sent_before_the_reply_ends(formats: Formats) -> None:
    form = formats("qwen3")
    growing = form.growing(TOOLS)

    thought = growing.feed(shattered(form, "<think>\nWhat"))
    said = growing.feed(shattered(form, " is it?\n</think>\n\nI look"))

    assert thought == ("", "What")
    assert said == ("I look", " is it?")


def test_half_a_character_waits_for_the_other_half(formats: Formats) -> None:
    form = formats("chatml")
    growing, ids = form.growing(), shattered(form, "🌦")

    given = [growing.feed([one]).content for one in ids]

    assert len(ids) > 2
    assert given == [""] * (len(ids) - 1) + ["🌦"]


def test_a_call_is_never_sent_as_text(formats: Formats) -> None:
    form = formats("qwen2.5")
    growing = form.growing(TOOLS)

    given = [growing.feed([one]).content for one in shattered(form, f"I look.\n{CALLS['hermes']}")]

    assert "".join(given) == "I look."


def test_a_reply_that_is_another_one_is_told(formats: Formats) -> None:
    form = formats("chatml")
    growing = form.growing()
    growing.feed(shattered(form, "hello"))

    with pytest.raises(ReplyChangedError):
        growing.rest(Reply(content="help"))
