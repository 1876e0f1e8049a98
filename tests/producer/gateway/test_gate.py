"""What strangers, floods and malformed requests get: an answer in OpenAI's shape, and nothing of ours."""

from __future__ import annotations

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from rollstream.producer.gateway import site
from rollstream.producer.gateway.gate import Bounds
from tests.support.gateway.served import TOKEN, WAIT_S, Gateway, gateway_of
from tests.support.worker_process import until_true

WRONG = "hunter2-hunter2-hunter2"
OK = b"host: localhost\r\nauthorization: Bearer " + TOKEN.encode() + b"\r\ncontent-type: application/json\r\n"


async def told(gateway: Gateway, data: bytes) -> tuple[int, Any]:
    """Status and JSON of what is answered to these bytes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(data)
    async with asyncio.timeout(WAIT_S):
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.read(int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0))
    writer.close()
    return int(head.split()[1]), json.loads(body) if body.startswith(b"{") else None


def posted(body: bytes, headers: bytes = OK, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return b"POST /v1/completions HTTP/1.1\r\n" + headers + b"content-length: %d\r\n\r\n" % size + body


async def test_without_the_token_nothing_is_answered_and_wrong_ones_fill_no_log(
    alone: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    without = await alone.http.get("/v1/models", headers={"authorization": ""})
    wrong = [await alone.http.get("/v1/models", headers={"authorization": f"Bearer {WRONG}"}) for _ in range(9)]
    right = await alone.http.get("/v1/models")

    assert (without.status_code, without.json()["error"]["code"]) == (401, "missing_api_key")
    assert [one.status_code for one in wrong] == [401] * 5 + [429] * 4
    assert wrong[0].json()["error"]["type"] == "authentication_error"
    assert right.status_code == 200, "a client with a wrong token shuts out nobody else behind its proxy"
    assert caplog.text.count("gave a wrong token") == 5
    assert (await alone.http.get("/health", headers={"authorization": ""})).status_code == 200
    assert WRONG not in caplog.text
    assert TOKEN not in caplog.text


BODIES = [
    (b"", 400),
    (b"{", 400),
    (b"[]", 400),
    (b"5", 400),
    (b"null", 400),
    (b"\xff\xfe", 400),
    (b'{"model": NaN}', 400),
    (b'{"temperature": -Infinity}', 400),
    (b"[" * 200_000, 400),
    (b'{"a":' * 100_000, 400),
    (b'{"n": ' + b"9" * 10_000 + b"}", 400),
    (b'{"model": "\\ud800"}', 400),
    (b'{"n": 2, "model": "p", "n": 1}', 400),
    (b'{"messages": [{"role": "user", "content": "a", "content": "b"}]}', 400),
    (b'{"temperature": 1e999, "model": "p", "prompt": "a"}', 404),
    (json.dumps({str(i): 1 for i in range(5000)}).encode(), 400),
]
"""What is no request, and the status that it is answered with."""
REQUESTS = [
    (posted(b"{}", length=2**20 + 1), 413),
    (posted(b"{}", OK + b"content-length: 2\r\n"), 400),
    (posted(b"{}", OK.replace(b"localhost", b"evil.example")), 400),
    (posted(b"{}", OK.replace(b"application/json", b"text/plain")), 415),
    (posted(b"{}", OK + b"content-encoding: gzip\r\n"), 415),
    (b"POST /v1/completions HTTP/1.1\r\n" + OK + b"transfer-encoding: chunked\r\n\r\n"
     + b"80000\r\n" + b" " * 0x80000 + b"\r\n" + b"90000\r\n" + b" " * 0x90000 + b"\r\n0\r\n\r\n", 413),
    (b"GET /v1/completions HTTP/1.1\r\n" + OK + b"\r\n", 405),
    (b"GET /../etc/passwd HTTP/1.1\r\n" + OK + b"\r\n", 404),
]  # fmt: skip
"""What is too large, or has two meanings."""


async def test_a_body_that_is_no_request_is_refused(alone: Gateway) -> None:
    for body, status in BODIES:
        answered, error = await told(alone, posted(body))
        assert answered == status, body[:50]
        assert error["error"]["type"] == "invalid_request_error"
        assert "Traceback" not in str(error)


async def test_what_only_looks_like_half_a_character_is_text(gateway: Gateway) -> None:
    said = json.dumps({"tool": "said \U0001f600"})  # what Python's own JSON makes of a smiley
    assert "\\ud83d" in said
    answer = await gateway.chat(messages=[{"role": "user", "content": said}])
    assert answer.status_code == 200, answer.text


async def test_a_request_that_is_too_large_or_has_two_meanings_is_refused(alone: Gateway) -> None:
    for request, status in REQUESTS:
        answered, _ = await told(alone, request)
        assert answered == status, request[:200]


async def test_a_header_that_is_there_twice_has_no_meaning(alone: Gateway) -> None:
    for header in (b"x-rollstream-session: a", b"idempotency-key: a", b"x-request-id: a", b"authorization: Bearer x"):
        answered, error = await told(alone, posted(b"{}", OK + header + b"\r\n" + header + b"b\r\n"))
        assert (answered, error["error"]["code"]) == (400, "invalid_header"), header


async def test_a_body_that_comes_too_slowly_is_not_waited_for(alone: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "_BODY_S", 0.05)
    assert (await told(alone, posted(b"{", length=100)))[0] == 408


async def test_more_requests_than_are_answered_at_once_are_told_to_come_again(
    redis_url: str, policy: str, chat_tokenizer: Path
) -> None:
    bounds = Bounds(most_body=1000, most_requests=2)
    async with gateway_of(redis_url, policy, chat_tokenizer, bounds=bounds, timeout_s=0.5) as gateway:
        waiting = [asyncio.create_task(gateway.complete()) for _ in range(2)]
        await until_true(lambda: gateway.gate.running == 2)
        refused = await gateway.complete()
        await asyncio.gather(*waiting)

    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
    assert refused.headers["retry-after"] == "1"
