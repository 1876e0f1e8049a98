"""A stream sends what Redis has of running completions, and its end never contradicts its beginning."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from openai import APIError
from openai.types import Completion

from rollstream import AsyncClient
from rollstream.producer.gateway.completions import batch_id_of
from rollstream.producer.http.server import EXIT_ENDED
from rollstream.schemas import Sealed, encode
from tests.support.faults import Queue
from tests.support.gateway.served import Gateway, gateway_of, results_of
from tests.support.partials.partial_steps import serving
from tests.support.worker_process import until_true

SLOW: dict[str, Any] = {"stub_vocab_size": 512, "stub_tokens_per_s": 150, "lease_s": 1, "keep_partials": 0}


@pytest.fixture(autouse=True)
def short_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is cancelled while it reads ends with that read."""
    monkeypatch.setattr("rollstream.worker.intake.make_consumer.BLOCK_MS", 100)


async def streamed(gateway: Gateway, **asked: Any) -> AsyncIterator[Completion]:
    told = {"model": gateway.policy, "prompt": [5, 6, 7], "max_tokens": 120, "seed": 3, **asked}
    body = {"return_token_ids": True, "ignore_eos": True}
    async for chunk in await gateway.openai.completions.create(**told, stream=True, extra_body=body):
        yield chunk


def has_queued(queue: Queue, batches: int) -> bool:
    """Whether so many batches were queued, and a worker has one of them."""
    return queue.redis.zcard(queue.keys.batches(0)) == batches and bool(queue.holders())


async def taken(stream: AsyncIterator[Completion], chunks: list[Completion]) -> None:
    """Take all that comes."""
    async for chunk in stream:
        chunks.append(chunk)


def ids_of(chunks: list[Completion], index: int) -> list[int]:
    """All token ids of one choice."""
    choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
    return [token for choice in choices for token in (choice.model_extra or {})["token_ids"]]


async def test_tokens_come_while_the_completions_run_and_are_those_of_the_result(
    redis_url: str, policy: str, alone: Gateway, trainer: AsyncClient
) -> None:
    began = asyncio.get_running_loop().time()
    chunks, times = [], []
    async with serving(redis_url, policy, **SLOW):
        async for chunk in streamed(alone, n=2, logprobs=0):
            chunks.append(chunk)
            times.append(asyncio.get_running_loop().time() - began)
        (result,) = await results_of(trainer, chunks[0].id)

    assert times[0] < times[-1] - 0.3, "120 tokens take 0.8 s"
    assert len(chunks) >= 8
    assert [ids_of(chunks, 0), ids_of(chunks, 1)] == [one.token_ids for one in result.completions]
    logprobs = [lp for one in chunks for choice in one.choices if choice.index == 1 and choice.logprobs
                for lp in choice.logprobs.token_logprobs or ()]  # fmt: skip
    assert logprobs == pytest.approx(result.completions[1].logprobs)


async def test_a_worker_that_dies_in_the_middle_is_followed_by_another_from_the_same_token(
    redis_url: str, policy: str, alone: Gateway, trainer: AsyncClient
) -> None:
    chunks: list[Completion] = []
    stream = streamed(alone, max_tokens=200)
    async with serving(redis_url, policy, **SLOW):
        while len(ids_of(chunks, 0)) < 30:
            chunks.append(await anext(stream))
    sent = len(ids_of(chunks, 0))
    async with serving(redis_url, policy, **SLOW):
        chunks += [chunk async for chunk in stream]
        (result,) = await results_of(trainer, chunks[0].id)

    assert ids_of(chunks, 0) == result.completions[0].token_ids
    assert sent <= result.completions[0].resumed_at < 200
    assert chunks[-1].choices[0].finish_reason == "length"


async def test_a_completion_that_was_begun_again_ends_the_stream_with_an_error(
    redis_url: str, policy: str, alone: Gateway, queue: Queue
) -> None:
    chunks: list[Completion] = []
    stream = streamed(alone, max_tokens=200)
    async with serving(redis_url, policy, **SLOW):
        while len(ids_of(chunks, 0)) < 20:
            chunks.append(await anext(stream))
    assert queue.redis.delete(queue.keys.parts(chunks[0].id.removeprefix("cmpl-"))) == 1
    async with serving(redis_url, policy, **{**SLOW, "stub_vocab_size": 400}):
        with pytest.raises(APIError, match="begun again") as broken:
            await taken(stream, chunks)

    assert broken.value.code == "stream_broken"
    assert {choice.finish_reason for chunk in chunks for choice in chunk.choices} == {None}


@pytest.mark.parametrize("header", [{}, {"idempotency-key": "a"}])
async def test_a_batch_whose_client_is_gone_is_cancelled_unless_it_has_an_id(
    redis_url: str, policy: str, alone: Gateway, queue: Queue, header: dict[str, str]
) -> None:
    async with serving(redis_url, policy, **SLOW):
        for number, stream in enumerate((True, False), 1):
            asked = {"model": policy, "prompt": [5], "max_tokens": 500, "seed": int(stream), "stream": stream}
            headers = {name: f"{value}{stream}" for name, value in header.items()}
            asking = asyncio.create_task(alone.http.post("/v1/completions", json=asked, headers=headers))
            await until_true(partial(has_queued, queue, number))
            asking.cancel()
            await asyncio.wait([asking])
            await until_true(lambda: alone.gate.running == 0)
            if not header:
                await until_true(lambda: not queue.holders())
        await asyncio.wait_for(alone.site.orders.ended(), 10)
        batches: Any = queue.redis.zrange(queue.keys.batches(0), 0, -1)

    cancelled = [queue.redis.hexists(queue.keys.ledger(one.decode()), "cancelled") for one in batches]
    assert cancelled == [not header] * 2


@pytest.mark.parametrize("there", [b"junk", b"", encode(Sealed(batch_id="other", num_groups=1))])
async def test_what_is_no_part_is_left_out_and_the_stream_has_its_end(
    redis_url: str, policy: str, alone: Gateway, queue: Queue, there: bytes
) -> None:
    key = queue.keys.parts(batch_id_of("a"))
    queue.redis.hset(key, mapping={"0": 1, "0:0": there, "0:0:tokens": 50})
    queue.redis.expire(key, 100)
    asking = asyncio.create_task(
        alone.complete(headers={"idempotency-key": "a"}, max_tokens=20, ignore_eos=True, stream=True)
    )
    await until_true(lambda: bool(queue.redis.exists(queue.keys.ledger(batch_id_of("a")))))
    async with serving(redis_url, policy, **SLOW):
        answer = await asking

    assert answer.text.endswith("data: [DONE]\n\n")
    assert '"error"' not in answer.text


async def test_a_prompt_that_is_refused_is_an_error_and_no_stream(gateway: Gateway) -> None:
    answer = await gateway.complete(prompt=[5, 100_000], stream=True)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "token_out_of_vocabulary"
    assert answer.json()["error"]["param"] == "prompt"


async def test_a_gateway_that_ends_tells_its_streams(redis_url: str, policy: str, chat_tokenizer: Path) -> None:
    async with (
        serving(redis_url, policy, **SLOW),
        gateway_of(redis_url, policy, chat_tokenizer, grace_s=0.2) as gateway,
    ):
        stream = streamed(gateway, max_tokens=900)
        await anext(stream)
        gateway.server.end(EXIT_ENDED)
        with pytest.raises(APIError, match="is ending"):
            await taken(stream, [])
        await gateway.site.orders.ended()
