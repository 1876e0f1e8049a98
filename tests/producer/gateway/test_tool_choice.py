"""`tool_choice`: what is wanted is forced or refused by name, and `none` leaves calls in the text."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from openai import UnprocessableEntityError

from rollstream import AsyncClient
from rollstream.producer.gateway.answers.chat import why_not_forced
from rollstream.producer.gateway.chat import ChatFormat, Reply
from rollstream.producer.gateway.errors import ApiError
from rollstream.producer.gateway.faults import failed
from rollstream.producer.gateway.requests.asked import ChatAsked, Terms
from rollstream.producer.gateway.requests.chat import chat_asked
from rollstream.schemas import ErrorCode, GroupError
from rollstream.worker.engines.stub import StubEngine
from tests.producer.gateway.test_chat import ADD, CALL, MESSAGES, saying
from tests.support.chat.tokenizers import saved
from tests.support.gateway.served import USER, Gateway, results_of
from tests.support.partials.partial_steps import serving

SUB: Any = {"type": "function", "function": {"name": "sub", "parameters": {}}}
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


STRICT: Any = {
    "type": "function",
    "function": {
        "name": "add",
        "strict": True,
        "parameters": {
            "type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": False,
        },
    },
}  # fmt: skip


def unguided(said: str, tokenizer: Path) -> Callable[[Any], StubEngine]:
    """An engine that takes guides and says this all the same."""

    def make(settings: Any) -> StubEngine:
        engine = saying(said, tokenizer)(settings)
        engine._info = replace(engine.info, has_tokenizer=True, features=engine.info.features | {"guided"})
        return engine

    return make


@pytest.mark.parametrize(
    ("said", "told", "why"),
    [
        ("No.", {"tools": [ADD]}, "did not keep to the grammar"),
        (CALL, {"tools": [STRICT]}, "arguments.a is not of type string"),
        (CALL, {"tools": [ADD, SUB], "tool_choice": {"type": "function", "function": {"name": "sub"}}},
         "it is a call of 'add'"),
    ],
    ids=["text", "misfit", "another"],
)  # fmt: skip
async def test_a_forced_reply_that_is_no_such_call_is_an_error_and_no_text(
    said: str, told: dict[str, Any], why: str, redis_url: str, policy: str, alone: Gateway, chat_tokenizer: Path
) -> None:
    engine = unguided(said, chat_tokenizer)
    async with serving(redis_url, policy, engine, stub_vocab_size=512, stub_tokens_per_s=0):
        with pytest.raises(UnprocessableEntityError, match="a call was wanted") as caught:
            await alone.openai.chat.completions.create(
                **{"model": policy, "messages": MESSAGES, "tool_choice": "required", **told}
            )

    error: Any = caught.value.body
    assert why in error["message"]
    assert (error["code"], error["param"]) == ("no_tool_call", "tool_choice")
    assert error["batch_id"]


async def test_a_forced_reply_that_was_cut_says_so_and_is_no_error(
    redis_url: str, policy: str, alone: Gateway, chat_tokenizer: Path
) -> None:
    asked: dict[str, Any] = {"model": policy, "messages": MESSAGES, "tools": [ADD], "tool_choice": "required"}
    engine = unguided(CALL, chat_tokenizer)
    async with serving(redis_url, policy, engine, stub_vocab_size=512, stub_tokens_per_s=0):
        cut = await alone.openai.chat.completions.create(**asked, max_tokens=12)
        whole = await alone.openai.chat.completions.create(**asked)

    assert (cut.choices[0].finish_reason, cut.choices[0].message.tool_calls) == ("length", None)
    assert whole.choices[0].finish_reason == "tool_calls"


def test_a_forced_reply_that_a_stop_string_ended_names_it(forms: dict[str, ChatFormat]) -> None:
    asked = asked_of(forms["hermes"], tools=[ADD], tool_choice="required", stop=["}"])
    one: Any = SimpleNamespace(stop_reason="}")

    assert why_not_forced(asked, Reply(content="<tool_call>"), one) == "it ended at the stop string '}': leave that out"


def test_a_guide_that_a_worker_refuses_is_told_by_the_parameter_that_made_it(forms: dict[str, ChatFormat]) -> None:
    forced = asked_of(forms["hermes"], tools=[ADD], tool_choice="required")
    structured = asked_of(forms["hermes"], structured_outputs={"regex": "a"})
    error = GroupError(
        batch_id="b", group=0, code=ErrorCode.UNSUPPORTED, field="guided", message="not here", worker="w"
    )

    told = [failed(error, asked.words).param for asked in (forced, structured, asked_of(forms["hermes"]))]
    assert told == ["tool_choice", "structured_outputs", "response_format"]


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
