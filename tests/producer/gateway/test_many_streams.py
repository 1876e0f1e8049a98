"""Many streams at once: each has its own text, and one task asks Redis for all of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from rollstream.producer.gateway.gate import Bounds
from tests.support.gateway.served import TOKEN, gateway_of
from tests.support.partials.partial_steps import serving
from tests.support.worker_process import until_true

STREAMS = [
    pytest.param(50, 60, id="50"),
    pytest.param(1000, 900, id="1000", marks=[pytest.mark.large, pytest.mark.timeout(400)]),
]


async def ids_of_stream(port: int, policy: str, seed: int, tokens: int) -> tuple[list[int], int]:
    """All token ids of one stream, and in how many chunks they came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    told = {"model": policy, "prompt": [5], "max_tokens": tokens, "seed": seed, "ignore_eos": True, "stream": True}
    body = json.dumps(told | {"return_token_ids": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n"
    kind = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write((head + kind).encode() + body)
    found, chunks = list[int](), 0
    while (line := await reader.readline()) and line != b"data: [DONE]\n":
        if line.startswith(b"data: "):
            found += next(_ids(line))
            chunks += 1
    writer.close()
    return found, chunks


def _ids(line: bytes) -> Iterator[list[int]]:
    event = json.loads(line[6:])
    assert "error" not in event, event
    yield [token for choice in event["choices"] for token in choice["token_ids"]]


@pytest.mark.parametrize(("streams", "tokens"), STREAMS)
async def test_each_of_many_streams_has_its_own_tokens(
    redis_url: str, policy: str, chat_tokenizer: Path, streams: int, tokens: int
) -> None:
    bounds = Bounds(most_body=10_000, most_requests=streams)
    async with (
        serving(redis_url, policy, stub_vocab_size=512, stub_tokens_per_s=60, lease_s=300),
        gateway_of(redis_url, policy, chat_tokenizer, bounds=bounds) as gateway,
    ):
        asked = [ids_of_stream(gateway.port, policy, seed % 40, tokens) for seed in range(streams)]
        answered = await asyncio.wait_for(asyncio.gather(*asked), 350)
        await until_true(lambda: gateway.gate.running == 0)

    by_seed = [{tuple(ids) for ids, _ in answered[seed::40]} for seed in range(40)]
    assert {len(ids) for ids, _ in answered} == {tokens}
    assert [len(found) for found in by_seed] == [1] * 40
    assert len(set.union(*by_seed)) == 40
    assert sum(chunks for _, chunks in answered) > 1.2 * streams, "they came before the end"
