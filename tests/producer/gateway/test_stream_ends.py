"""How streams of conversations end early: OpenAI's client raises, and a batch that nobody waits for ends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
from openai import APIError, AsyncStream
from openai.types.chat import ChatCompletionChunk

from rollstream import AsyncClient
from rollstream.producer.gateway.answers.chat import StreamedReply
from tests.producer.gateway.test_chat import MESSAGES
from tests.producer.gateway.test_streams import SLOW
from tests.support.faults import Queue
from tests.support.gateway.served import Gateway
from tests.support.partials.partial_steps import serving
from tests.support.worker_process import until_true


async def begun(gateway: Gateway, **more: Any) -> tuple[AsyncStream[ChatCompletionChunk], str]:
    """A stream of which text has come, and its batch."""
    asked: dict[str, Any] = {"model": gateway.policy, "messages": MESSAGES, "max_tokens": 900, "stream": True, **more}
    stream = await gateway.openai.chat.completions.create(**asked, extra_body={"ignore_eos": True, "session": "s"})
    async for chunk in stream:
        if any(choice.delta.content for choice in chunk.choices):
            return stream, chunk.id.removeprefix("chatcmpl-")
    raise AssertionError("a stream without text")


async def ended(stream: AsyncStream[ChatCompletionChunk]) -> list[str | None]:
    """Why choices ended, of all that comes."""
    return [choice.finish_reason async for chunk in stream for choice in chunk.choices]


async def test_a_batch_that_is_cancelled_in_the_middle_is_raised_by_the_client(
    redis_url: str, policy: str, alone: Gateway, trainer: AsyncClient
) -> None:
    async with serving(redis_url, policy, **SLOW):
        stream, batch_id = await begun(alone)
        await (await trainer.attach(batch_id)).cancel()
        with pytest.raises(APIError, match="cancelled") as broken:
            await ended(stream)

    error: Any = broken.value.body
    assert (error["code"], error["batch_id"]) == ("cancelled", batch_id)


async def test_a_defect_in_the_middle_is_raised_by_the_client_and_its_cause_is_in_the_log(
    redis_url: str,
    policy: str,
    alone: Gateway,
    queue: Queue,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken_reply(*_: object) -> Iterator[dict[str, Any]]:
        raise KeyError("/srv/secret")

    async with serving(redis_url, policy, **SLOW):
        stream, batch_id = await begun(alone)
        monkeypatch.setattr(StreamedReply, "grow", broken_reply)
        with pytest.raises(APIError, match="a defect in this gateway") as broken:
            await ended(stream)
        monkeypatch.undo()
        await alone.site.orders.ended()
        assert queue.redis.hexists(queue.keys.ledger(batch_id), "cancelled"), "nobody waits for it any more"
        assert await begun(alone)

    assert "secret" not in str(broken.value.body)
    assert "secret" in caplog.text


async def test_a_defect_before_the_first_event_is_a_500_and_its_batch_is_cancelled(
    alone: Gateway, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken_form(*_: object) -> int:
        raise KeyError("/srv/secret")

    monkeypatch.setattr("rollstream.producer.gateway.completions.created_at", broken_form)
    answer = await alone.complete(stream=True)
    await alone.site.orders.ended()
    (batch,) = cast(list[bytes], queue.redis.zrange(queue.keys.batches(0), 0, -1))

    assert (answer.status_code, "secret" in answer.text) == (500, False)
    assert answer.headers["connection"] == "close"
    assert queue.redis.hexists(queue.keys.ledger(batch.decode()), "cancelled")


async def test_a_client_that_closes_its_stream_is_not_sampled_for_any_more(
    redis_url: str, policy: str, alone: Gateway, queue: Queue
) -> None:
    async with serving(redis_url, policy, **SLOW):
        stream, batch_id = await begun(alone)
        await stream.close()
        await until_true(lambda: alone.gate.running == 0)
        await alone.site.orders.ended()
        await until_true(lambda: not queue.holders())

    assert queue.redis.hexists(queue.keys.ledger(batch_id), "cancelled")
