"""What follows a sampled reply is what the template puts there, and the sampled ids stay as they are."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rollstream.producer.gateway.chat import (
    ChatFormat,
    ChatRequestError,
    NotContinuedError,
    checked_messages,
)
from tests.support.chat.replies import TOOLS, shattered
from tests.support.chat.tokenizers import FAMILIES

Formats = Callable[[str], ChatFormat]
SAID = ["I am fine", "", "Grüße 🌦 日本", "12 degrees.\n\nand more", '{"a": [1]}', "the end)"]
ASKED = ["hello  there", "\nand you? ", "ünd jetzt? 🌦", "12", "</tool> <b>", "then"]
REWRITES = {"qwen3", "deepseek-r1"}
"""Their prompts, or what they make of earlier thoughts, are no part of later ones."""
SPACED = {"llama2"}
"""Puts a space between a reply and its end, which a reply that was cut short may be merged with."""
OPENINGS = {"gpt-oss": "<|channel|>final<|message|>", "vicuna": " ", "mistral": "  ", "llama2": " ", "phi3": " "}
"""What a reply begins with behind the prompt: spaces of the template and of its kind of tokenizer."""
CALLING = ["qwen2.5", "qwen3", "llama3.1", "mistral", "gpt-oss"]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def text_of(form: ChatFormat, ids: list[int]) -> str:
    return str(form.tokenizer.decode(ids, skip_special_tokens=False))


@pytest.mark.parametrize("ends", [True, False], ids=["ended", "cut short"])
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - REWRITES))
def test_ids_are_those_of_the_whole_conversation(family: str, ends: bool, formats: Formats) -> None:
    """The whole conversation as one text, tokenized at once, has the following ids at its end and the prompt's at its
    beginning; what is between them is the reply."""
    form, messages = formats(family), [user("hello")]
    for reply, question in zip(SAID, ASKED, strict=True):
        history = [*messages, said(reply)]
        prompt, messages = form.whole(messages), [*history, user(question)]
        whole = form.whole(messages)

        following = form.following(history, [user(question)], ended=ends)

        assert whole[: len(prompt)] == prompt
        if ends or family not in SPACED:
            assert whole[-len(following) :] == following
            between = text_of(form, whole[len(prompt) : -len(following)])
            assert between.endswith(reply + " " * (family in SPACED) + "".join(form.ends[:1] * ends))


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - REWRITES))
def test_a_long_conversation_of_odd_ids_is_the_text_that_the_template_renders(family: str, formats: Formats) -> None:
    form, rng = formats(family), random.Random(7)
    ends = form.tokenizer.convert_tokens_to_ids(list(form.ends[:1]))
    messages: list[dict[str, Any]] = [user("begin")]
    ids = form.whole(messages)
    for reply, question in zip(SAID, ASKED, strict=True):
        ended = rng.random() < 0.5
        text = OPENINGS.get(family, "") + reply + " " * (ended and family in SPACED)
        sampled = shattered(form, text if reply or family != "phi3" else "") + ends * ended
        history = [*messages, said(reply)]
        ids += sampled + form.following(history, [user(question)], ended=form.ended(sampled))
        messages = [*history, user(question)]

    assert text_of(form, ids) == text_of(form, form.whole(messages))


def test_a_space_before_the_end_of_a_reply_that_was_cut_short_is_one_space(formats: Formats) -> None:
    form, history = formats("llama2"), [user("hello"), said("I am")]
    sampled = form.tokenizer("I am", add_special_tokens=False)["input_ids"]

    following = form.following(history, [user("more")], ended=False)

    whole = form.whole([*history, user("more")])
    assert text_of(form, form.whole(history[:1]) + sampled + following) == text_of(form, whole)


@pytest.mark.parametrize("family", CALLING)
def test_answers_of_tools_follow_the_call(family: str, formats: Formats) -> None:
    form = formats(family)
    call = {"id": "abcdef123", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rom ü"}'}}
    history = [user("weather?"), {**said(""), "tool_calls": [call]}]
    new = [{"role": "tool", "tool_call_id": "abcdef123", "content": "12 degrees"}]
    messages = checked_messages([*history, *new])
    whole, prompt = form.whole(messages, TOOLS), form.whole(messages[:1], TOOLS)

    following = form.following(messages[:2], messages[2:], TOOLS, ended=True)
    cut = form.following(messages[:2], messages[2:], TOOLS, ended=False)

    assert whole[: len(prompt)] == prompt
    assert whole[-len(following) :] == following
    assert whole[-len(cut) :] == cut
    assert "12 degrees" in text_of(form, following)
    assert "Rom" not in text_of(form, cut)
    assert len(cut) == len(following) + 1


@pytest.mark.parametrize("family", ["qwen2.5", "qwen3", "mistral"])
def test_several_answers_of_tools_follow_together(family: str, formats: Formats) -> None:
    form = formats(family)
    calls = [
        {"id": f"abcdef12{i}", "type": "function", "function": {"name": "weather", "arguments": {"city": city}}}
        for i, city in enumerate(("Paris", "Rome"))
    ]
    answers = [{"role": "tool", "tool_call_id": call["id"], "content": f"fine {i}"} for i, call in enumerate(calls)]
    messages = checked_messages([user("weather?"), {**said("I look."), "tool_calls": calls}, *answers])

    following = form.following(messages[:2], messages[2:], TOOLS, ended=True)

    assert form.whole(messages, TOOLS)[-len(following) :] == following
    assert all(f"fine {i}" in text_of(form, following) for i in (0, 1))


def test_thoughts_that_the_template_would_drop_stay_as_sampled(formats: Formats) -> None:
    """Qwen 3 leaves the thoughts of earlier turns out; what was sampled has them, and only that is exact."""
    form = formats("qwen3")
    thought = {**said("Fine."), "reasoning_content": "What is asked?"}
    history = [user("how?"), thought, user("and then?"), {**thought, "content": "Well."}]

    following = form.following(history, [user("more")], ended=True)

    assert text_of(form, following) == "\n<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\n"


def test_thoughts_between_calls_may_be_dropped_later_too(formats: Formats) -> None:
    """Qwen 3 keeps thoughts up to the next question, so that its own text of earlier messages changes with it."""
    form = formats("qwen3")
    call = {"id": "abcdef123", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    history = checked_messages(
        [
            user("weather?"),
            {**said(""), "tool_calls": [call], "reasoning_content": "I look."},
            {"role": "tool", "tool_call_id": "abcdef123", "content": "12 degrees"},
            said("<think>\nNow I know.\n</think>\n\nFine."),
        ]
    )

    following = form.following(history, [user("thanks")], TOOLS, ended=True)

    assert text_of(form, following) == "\n<|im_start|>user\nthanks<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("family", ["qwen3", "deepseek-r1"])
def test_what_only_a_prompt_has_at_its_end_is_there_again(family: str, formats: Formats) -> None:
    form = formats(family)
    options: dict[str, Any] = {"enable_thinking": False} if family == "qwen3" else {}
    asked = form.whole([user("hello")], **options)

    following = form.following([user("hello"), said("Hi")], [user("more")], ended=True, **options)

    prompt = text_of(form, asked)
    assert text_of(form, following).endswith(prompt[prompt.index("hello") + len("hello") :])


def test_a_template_that_moves_its_tools_is_not_continued(formats: Formats) -> None:
    """Mistral's puts them before the last question, so that the earlier prompt is none of the later one."""
    with pytest.raises(NotContinuedError, match="changes earlier messages"):
        formats("mistral").following([user("hello"), said("Hi")], [user("more")], TOOLS, ended=True)


def test_a_template_that_does_not_end_a_reply_with_a_call_is_not_continued(formats: Formats) -> None:
    """DeepSeek's leaves the end of a single call out."""
    call = {"id": "abcdef123", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages = checked_messages(
        [
            user("weather?"),
            {**said(""), "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "abcdef123", "content": "12 degrees"},
        ]
    )

    with pytest.raises(NotContinuedError, match="does not end a reply that has a call"):
        formats("deepseek-r1").following(messages[:2], messages[2:], ended=True)


@pytest.mark.parametrize("family", ["gemma2", "llama2", "mistral"])
def test_roles_that_the_template_refuses_are_refused(family: str, formats: Formats) -> None:
    with pytest.raises(ChatRequestError, match="alternate") as caught:
        formats(family).following([user("hello"), said("Hi")], [user("more"), user("and more")], ended=True)

    assert caught.value.param == "messages"


def test_another_end_that_the_template_knows_is_an_end(formats: Formats) -> None:
    """Llama 3.1 ends a call of its own tools by `<|eom_id|>`; its end of turn is not put behind that."""
    form = formats("llama3.1")
    eom, end_of_text = form.tokenizer.convert_tokens_to_ids(["<|eom_id|>", "<|end_of_text|>"])

    assert form.ended([5, eom])
    assert not form.ended([5, end_of_text])
    assert not form.ended([])


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_sampling_stops_where_a_reply_ends(family: str, formats: Formats) -> None:
    ends = {
        "gpt-oss": {"<|return|>", "<|call|>"}, "llama3.1": {"<|eot_id|>", "<|eom_id|>"}, "vicuna": set(), "bare": set(),
        "gemma2": {"<end_of_turn>"}, "gemma3": {"<end_of_turn>"}, "phi3": {"<|end|>"}, "olmo2": {"<|endoftext|>"},
        "llama2": {"</s>"}, "mistral": {"</s>"}, "deepseek-r1": {FAMILIES["deepseek-r1"].eos},
    }  # fmt: skip
    form = formats(family)

    assert set(form.tokenizer.convert_ids_to_tokens(form.end_ids)) == ends.get(family, {"<|im_end|>"})


PIECES = [*"ab .\n\t12{}<>|üé日🌦 ", "<|im_end|>", "</s>", "user", "<think>", "[INST]", "\u2581", "\xa0"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - REWRITES - SPACED))
@given(reply=TEXTS, question=TEXTS, earlier=TEXTS)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_said_the_ids_are_those_of_the_whole(
    family: str, reply: str, question: str, earlier: str, formats: Formats
) -> None:
    """Replies are texts that templates leave as they are; what was asked may be anything, also special tokens."""
    form = formats(family)
    reply = reply.strip()
    history = [user(earlier), said(reply)]
    whole, prompt = form.whole([*history, user(question)]), form.whole(history[:1])

    following = form.following(history, [user(question)], ended=True)

    assert text_of(form, whole).startswith(text_of(form, prompt))
    assert whole[-len(following) :] == following
