"""POST /v1/chat/completions, asked by OpenAI's own client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from openai import APIStatusError

from rollstream import AsyncClient
from rollstream.producer.gateway.chat import ChatFormat
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.engines.stub_plans import Plans
from tests.support.gateway.served import USER, Gateway, results_of
from tests.support.partials.partial_steps import serving

MESSAGES: Any = USER
ADD: Any = {
    "type": "function",
    "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}},
}
CALL = 'I add.<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>'


class Says(Plans):
    """Plans the ids of one text, whatever is asked."""

    def __init__(self, ids: list[int]) -> None:
        super().__init__(vocab_size=512, long_tail="none")
        self.ids = np.array(ids, np.int32)

    def rest(self, request: Any, _sample: int, _version: int, done: int) -> NDArray[np.int32]:
        return self.ids[: request.config.max_new_tokens][done:]


def saying(text: str, tokenizer: Path) -> Callable[[Any], StubEngine]:
    """An engine that says this, and ends its turn."""
    encoded = ChatFormat.of(tokenizer).tokenizer(text, add_special_tokens=False)["input_ids"]

    def make(settings: Any) -> StubEngine:
        engine = StubEngine(settings)
        engine._plans = Says([*encoded, 2])
        return engine

    return make


@pytest.fixture(params=[0, 60])
async def calling(
    request: pytest.FixtureRequest, redis_url: str, policy: str, alone: Gateway, chat_tokenizer: Path
) -> AsyncIterator[Gateway]:
    """Its worker always makes a call; at once, or so slowly that a stream sees it grow."""
    engine = saying(CALL, chat_tokenizer)
    async with serving(redis_url, policy, engine, stub_vocab_size=512, stub_tokens_per_s=request.param):
        yield alone


async def test_a_reply_has_the_text_of_what_was_sampled(
    gateway: Gateway, trainer: AsyncClient, chat_tokenizer: Path
) -> None:
    told = await gateway.openai.chat.completions.create(
        model=gateway.policy, messages=MESSAGES, max_tokens=7, logprobs=True, extra_body={"return_token_ids": True}
    )
    (result,) = await results_of(trainer, told.id)
    (one,) = result.completions
    (choice,) = told.choices

    chat = ChatFormat.of(chat_tokenizer)
    assert result.prompt_ids == chat.whole(USER) == (told.model_extra or {})["prompt_token_ids"]
    assert choice.message.content == chat.reply(one.token_ids).content
    assert (choice.model_extra or {})["token_ids"] == one.token_ids
    assert choice.logprobs is not None
    assert [token.logprob for token in choice.logprobs.content or ()] == pytest.approx(one.logprobs)
    assert told.usage is not None
    assert told.usage.completion_tokens == len(one)


async def test_a_call_is_parsed_and_its_conversation_goes_on(calling: Gateway) -> None:
    asked: dict[str, Any] = {"model": calling.policy, "messages": USER, "tools": [ADD]}
    told = await calling.openai.chat.completions.create(**asked)
    (choice,) = told.choices
    assert choice.message.tool_calls
    (call,) = choice.message.tool_calls

    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "I add.")
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("add", '{"a": 2}')
    answered = [*USER, choice.message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "4"}]
    again = await calling.openai.chat.completions.create(**{**asked, "messages": answered})
    assert again.choices[0].finish_reason == "tool_calls"


async def test_a_stream_has_no_word_of_a_call_in_its_content(calling: Gateway) -> None:
    asked: dict[str, Any] = {"model": calling.policy, "messages": USER, "tools": [ADD], "stream": True}
    chunks = [chunk async for chunk in await calling.openai.chat.completions.create(**asked)]
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    calls = [call for delta in deltas for call in delta.tool_calls or ()]

    assert "".join(delta.content or "" for delta in deltas) == "I add."
    assert deltas[0].role == "assistant"
    assert [(call.index, call.function and call.function.arguments) for call in calls] == [(0, '{"a": 2}')]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_without_tools_the_same_text_is_content_and_a_stream_has_all_of_it(calling: Gateway) -> None:
    asked: dict[str, Any] = {"model": calling.policy, "messages": USER}
    whole = await calling.openai.chat.completions.create(**asked)
    chunks = [chunk async for chunk in await calling.openai.chat.completions.create(**asked, stream=True)]

    assert whole.choices[0].message.content == CALL
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == CALL
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "stop"


async def test_messages_that_the_template_has_no_place_for_are_refused(gateway: Gateway) -> None:
    messages: Any = [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]
    with pytest.raises(APIStatusError) as refused:
        await gateway.openai.chat.completions.create(model=gateway.policy, messages=messages)
    assert (refused.value.status_code, refused.value.type) == (400, "invalid_request_error")


async def test_a_tokenizer_without_a_template_serves_prompts_alone(
    redis_url: str, policy: str, tiny_model: Path
) -> None:
    from tests.support.gateway.served import gateway_of

    async with gateway_of(redis_url, policy, tiny_model) as gateway:
        answer = await gateway.chat()
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "no_chat_template")
