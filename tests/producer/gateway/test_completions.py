"""POST /v1/completions, asked by OpenAI's own client."""

from __future__ import annotations

from typing import Any

import pytest
from openai import APIStatusError

from rollstream import AsyncClient
from tests.support.gateway.served import Gateway, results_of


async def test_what_was_sampled_comes_back_with_its_ids_and_log_probs(gateway: Gateway, trainer: AsyncClient) -> None:
    told = await gateway.openai.completions.create(
        model=gateway.policy,
        prompt=[[5, 6, 7], [8, 9]],
        max_tokens=6,
        n=2,
        seed=3,
        logprobs=2,
        extra_body={"return_token_ids": True, "top_k": 50},
    )
    results = await results_of(trainer, told.id)

    assert [one.index for one in told.choices] == [0, 1, 2, 3]
    assert [one.model_extra and one.model_extra["token_ids"] for one in told.choices] == [
        completion.token_ids for result in results for completion in result
    ]
    assert told.choices[2].model_extra
    assert told.choices[2].model_extra["prompt_token_ids"] == [8, 9]
    assert told.usage
    assert (told.usage.prompt_tokens, told.usage.completion_tokens) == (5, 24)
    first = told.choices[0].logprobs
    assert first
    assert first.token_logprobs == pytest.approx(results[0].completions[0].logprobs)
    assert first.tokens
    assert first.top_logprobs
    assert len(first.tokens) == len(first.top_logprobs) == 6
    assert {one.finish_reason for one in told.choices} == {"length"}


async def test_a_text_is_tokenized_and_a_stream_gives_the_same_text(gateway: Gateway) -> None:
    asked: dict[str, Any] = {"model": gateway.policy, "prompt": "two and two", "max_tokens": 40, "temperature": 0}
    whole = await gateway.openai.completions.create(**asked)
    stream = await gateway.openai.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]

    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert chunks[-1].usage
    assert chunks[-1].usage == whole.usage
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason


async def test_the_one_model_is_listed_and_another_is_none(gateway: Gateway) -> None:
    listed = await gateway.openai.models.list()
    assert [one.id for one in listed.data] == [gateway.policy]
    assert (await gateway.openai.models.retrieve(gateway.policy)).id == gateway.policy
    with pytest.raises(APIStatusError, match="does not exist") as refused:
        await gateway.openai.completions.create(model="gpt-5", prompt="a")
    assert (refused.value.status_code, refused.value.code) == (404, "model_not_found")
