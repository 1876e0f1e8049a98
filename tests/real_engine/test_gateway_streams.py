"""Streams of the gateway on the real engine: text before the end, the same text, and no contradiction after a kill."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.support.engine.real_workers import REAL_POLICY, RealWorkers
from tests.support.faults import Queue
from tests.support.gateway.chat_tokenizer import write_chat_tokenizer
from tests.support.gateway.served import Gateway, gateway_of
from tests.support.worker_process import WorkerProcess

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

GREEDY: dict[str, Any] = {
    "messages": [{"role": "user", "content": "two and two is"}], "temperature": 0, "max_tokens": 800,
}  # fmt: skip
ALL = {"ignore_eos": True, "return_token_ids": True}


@pytest.fixture
def tokenizer(tiny_model: Path, tmp_path: Path) -> Path:
    return write_chat_tokenizer(tiny_model, tmp_path / "tokenizer")


async def taken(gateway: Gateway, then: Any = None) -> tuple[str, list[int], list[float]]:
    """Text and ids of a stream, and when each chunk came; `then` is called once there are any."""
    began = asyncio.get_running_loop().time()
    text, ids, times = "", list[int](), list[float]()
    stream: Any = await gateway.openai.chat.completions.create(
        model=gateway.policy, **GREEDY, stream=True, extra_body=ALL
    )
    async for chunk in stream:
        times.append(asyncio.get_running_loop().time() - began)
        for choice in chunk.choices:
            text += choice.delta.content or ""
            ids += (choice.model_extra or {}).get("token_ids", [])
        if then is not None and ids:
            await asyncio.to_thread(then)
            then = None
    return text, ids, times


async def whole(gateway: Gateway) -> tuple[str, list[int]]:
    told: Any = await gateway.openai.chat.completions.create(model=gateway.policy, **GREEDY, extra_body=ALL)
    return told.choices[0].message.content, told.choices[0].model_extra["token_ids"]


async def test_a_stream_begins_before_its_completion_ends_and_has_the_same_text(
    redis_url: str, real_workers: RealWorkers, tokenizer: Path
) -> None:
    real_workers.serving()
    async with gateway_of(redis_url, REAL_POLICY, tokenizer) as gateway:
        text, ids = await whole(gateway)
        streamed, streamed_ids, times = await taken(gateway)

    assert (streamed, streamed_ids) == (text, ids)
    assert len(ids) == GREEDY["max_tokens"]
    assert times[0] < times[-1] / 2, times
    assert len(times) >= 5


async def test_a_forced_call_of_a_strict_tool_fits_its_schema_or_was_cut(
    redis_url: str, real_workers: RealWorkers, tokenizer: Path
) -> None:
    real_workers.serving()
    inner = {"type": "object", "properties": {"ok": {"type": "boolean"}, "n": {"type": ["integer", "null"]}},
             "required": ["ok"], "additionalProperties": False}  # fmt: skip
    schema = {
        "type": "object",
        "properties": {"mode": {"enum": ["fast", 'a "slow"\n', 7]},
                       "at": {"type": "integer", "minimum": 3, "maximum": 40},
                       "of": {"type": "array", "items": {"$ref": "#/$defs/inner"}, "minItems": 1, "maxItems": 2}},
        "required": ["mode", "at", "of"], "additionalProperties": False, "$defs": {"inner": inner},
    }  # fmt: skip
    tools: Any = [{"type": "function", "function": {"name": "set", "parameters": schema, "strict": True}}]
    asked: dict[str, Any] = {
        "messages": GREEDY["messages"], "tools": tools, "max_tokens": 250, "n": 4, "seed": 5,
        "tool_choice": {"type": "function", "function": {"name": "set"}},
    }  # fmt: skip
    async with gateway_of(redis_url, REAL_POLICY, tokenizer) as gateway:
        told = await gateway.openai.chat.completions.create(model=gateway.policy, **asked)
        cut = await gateway.openai.chat.completions.create(model=gateway.policy, **{**asked, "max_tokens": 9})

    found = [call for choice in told.choices for call in choice.message.tool_calls or []]
    assert len(found) == 4
    for call in found:
        assert call.type == "function"
        assert call.function.name == "set"
        jsonschema.validate(json.loads(call.function.arguments), schema)
    assert {choice.finish_reason for choice in told.choices} == {"tool_calls"}
    assert {choice.finish_reason for choice in cut.choices} == {"length"}


@pytest.fixture
def pair(redis_url: str, policy: str, tiny_model: Path) -> Iterator[list[WorkerProcess]]:
    flags = [
        "--model", str(tiny_model), "--dtype", "float32", "--max-num-seqs", "16", "--max-model-len", "1024",
        "--kv-cache-bytes", str(64 * 2**20), "--lease-s", "3",
    ]  # fmt: skip
    workers = [WorkerProcess(redis_url, policy, *flags) for _ in range(2)]
    try:
        for worker in workers:
            worker.wait_until_serving(240)
        yield workers
    finally:
        for worker in workers:
            worker.end()


@pytest.mark.large
async def test_a_worker_killed_in_the_middle_of_a_stream_changes_nothing_that_was_sent(
    redis_url: str, policy: str, pair: list[WorkerProcess], queue: Queue, tokenizer: Path
) -> None:
    def kill() -> None:
        (holder,) = {one.consumer for one in queue.holders().values()}
        next(one for one in pair if f"-{one.process.pid}-" in holder).process.kill()

    async with gateway_of(redis_url, policy, tokenizer) as gateway:
        text, ids = await whole(gateway)
        streamed, streamed_ids, _ = await taken(gateway, kill)

    assert [worker.process.poll() is None for worker in pair].count(True) == 1
    assert (streamed, streamed_ids) == (text, ids)
