"""`tool_choice`: what is wanted is forced or refused by name, and `none` leaves calls in the text."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rollstream import AsyncClient
from rollstream.producer.gateway.chat import ChatFormat
from rollstream.producer.gateway.errors import ApiError
from rollstream.producer.gateway.requests.asked import ChatAsked, Terms
from rollstream.producer.gateway.requests.chat import chat_asked
from tests.producer.gateway.test_chat import ADD, CALL, MESSAGES, saying
from tests.support.chat.tokenizers import saved
from tests.support.gateway.served import USER, Gateway, results_of
from tests.support.partials.partial_steps import serving

ADD_ALONE = {"type": "function", "function": {"name": "add"}}


@pytest.fixture(scope="module")
def forms(chat_tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ChatFormat]:
    folder = tmp_path_factory.mktemp("forms")
    found = {name: ChatFormat.of(saved(name, folder / name)) for name in ("mistral", "gpt-oss")}
    return {"hermes": ChatFormat.of(chat_tokenizer), **found}


def asked_of(form: ChatFormat, **told: Any) -> ChatAsked:
    terms = Terms(policy="p", has_chat=True, grows=form.grows, forced_call=form.forced_call)
    return chat_asked({"model": "p", "messages": USER, **told}, {}, terms)


@pytest.mark.parametrize("choice", ["required", ADD_ALONE], ids=["required", "named"])
def test_a_wanted_call_is_forced_by_a_grammar(choice: Any, forms: dict[str, ChatFormat]) -> None:
    config = asked_of(forms["hermes"], tools=[ADD], tool_choice=choice).config

    assert config.guided is not None
    assert config.guided == forms["hermes"].forced_call(choice, [ADD])


@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_nothing_is_forced_without_it(choice: Any, forms: dict[str, ChatFormat]) -> None:
    asked = asked_of(forms["hermes"], tools=[ADD], tool_choice=choice)

    assert asked.config.guided is None
    assert asked.has_calls is (choice != "none")


@pytest.mark.parametrize(
    ("form", "told", "param"),
    [
        ("hermes", {"tool_choice": "required"}, "tool_choice"),
        ("hermes", {"tool_choice": "auto"}, "tool_choice"),
        ("hermes", {"tools": [ADD], "tool_choice": "always"}, "tool_choice"),
        ("hermes", {"tools": [ADD], "tool_choice": {"type": "function", "function": {"name": "no"}}},
         "tool_choice.function.name"),
        ("hermes", {"tools": [ADD], "tool_choice": "required", "response_format": {"type": "json_object"}},
         "tool_choice"),
        ("hermes", {"tools": [ADD], "tool_choice": "required", "stream": True}, "stream"),
        ("hermes", {"tools": [ADD], "parallel_tool_calls": False}, "parallel_tool_calls"),
        ("hermes", {"tools": [ADD], "tool_choice": "required", "parallel_tool_calls": False}, "parallel_tool_calls"),
        ("hermes", {"tools": [ADD, ADD]}, "tools[1].function.name"),
        ("mistral", {"tools": [ADD], "tool_choice": "required"}, "tool_choice"),
        ("gpt-oss", {"stream": True}, "stream"),
    ],
)  # fmt: skip
def test_what_is_not_offered_is_refused_by_name(
    form: str, told: dict[str, Any], param: str, forms: dict[str, ChatFormat]
) -> None:
    with pytest.raises(ApiError) as caught:
        asked_of(forms[form], **told)

    assert (caught.value.status, caught.value.param) == (400, param)


def test_one_call_alone_may_be_wanted_by_its_name(forms: dict[str, ChatFormat]) -> None:
    asked = asked_of(forms["hermes"], tools=[ADD], tool_choice=ADD_ALONE, parallel_tool_calls=False)

    assert asked.config.guided is not None


@pytest.fixture
async def calling(redis_url: str, policy: str, alone: Gateway, chat_tokenizer: Path) -> AsyncIterator[Gateway]:
    async with serving(redis_url, policy, saying(CALL, chat_tokenizer), stub_vocab_size=512, stub_tokens_per_s=0):
        yield alone


async def test_with_none_a_call_stays_text_and_the_prompt_has_its_tools(
    calling: Gateway, trainer: AsyncClient, forms: dict[str, ChatFormat]
) -> None:
    told = await calling.openai.chat.completions.create(
        model=calling.policy, messages=MESSAGES, tools=[ADD], tool_choice="none"
    )
    (result,) = await results_of(trainer, told.id)

    assert (told.choices[0].message.content, told.choices[0].finish_reason) == (CALL, "stop")
    assert result.prompt_ids == forms["hermes"].whole(USER, [ADD])


async def test_a_call_that_was_sent_as_text_is_gone_on_from(
    calling: Gateway, trainer: AsyncClient, forms: dict[str, ChatFormat]
) -> None:
    asked: dict[str, Any] = {"model": calling.policy, "tools": [ADD], "extra_body": {"session": "s"}}
    told = await calling.openai.chat.completions.create(messages=MESSAGES, tool_choice="none", **asked)
    messages: Any = [*USER, {"role": "assistant", "content": told.choices[0].message.content}, *USER]
    again = await calling.openai.chat.completions.create(messages=messages, **asked)
    (first,), (second,) = await results_of(trainer, told.id), await results_of(trainer, again.id)

    sampled = first.completions[0].token_ids
    following = forms["hermes"].following(messages[:2], messages[2:], [ADD], ended=True)
    assert second.prompt_ids == first.prompt_ids + sampled + following
