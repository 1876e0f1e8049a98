"""A client is told what is wrong and what to do, and never where Redis, files and workers are; the log keeps it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from openai import APIError

from rollstream.producer.errors import LengthsFileError, RedisUnavailableError
from rollstream.producer.gateway.faults import failed, problem_of
from rollstream.producer.gateway.places import without_places
from rollstream.producer.queue_errors import TooLargeForRedisError
from rollstream.schemas import ErrorCode, GenerationConfig, GroupError
from rollstream.worker.errors import DataError
from rollstream.worker.jobs.request_checks import check_prompt
from tests.producer.gateway.test_streams import SLOW, streamed, taken
from tests.support.faults import Link
from tests.support.gateway.served import gateway_of
from tests.support.partials.partial_steps import serving

URL = "rediss://trainer@redis-7.internal:6380/0"
USER = "guest-of-the-test"


async def test_a_redis_that_is_away_is_named_in_the_log_alone(
    link: Link, policy: str, chat_tokenizer: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with gateway_of(link.url, policy, chat_tokenizer, reconnect_s=0.1) as gateway:
        link.drop()
        answers = [
            await gateway.complete(),
            await gateway.complete(stream=True),
            await gateway.chat(headers={"x-rollstream-session": "s"}),
            await gateway.http.get("/health"),
        ]

    port = link.url.rpartition(":")[2].partition("/")[0]
    assert [answer.status_code for answer in answers] == [503] * 4
    assert answers[0].json()["error"]["code"] == "redis_unavailable"
    assert "ask again" in answers[0].json()["error"]["message"]
    for answer in answers:
        assert port not in answer.text
        assert "127.0.0.1" not in answer.text
    assert port in caplog.text


async def test_a_redis_that_goes_in_the_middle_of_a_stream_ends_it_with_an_error_without_its_address(
    redis_url: str, link: Link, policy: str, chat_tokenizer: Path
) -> None:
    async with (
        serving(redis_url, policy, **SLOW),
        gateway_of(link.url, policy, chat_tokenizer, reconnect_s=0.1) as gateway,
    ):
        stream = streamed(gateway, max_tokens=900)
        await anext(stream)
        link.drop()
        with pytest.raises(APIError, match="ask again") as broken:
            await taken(stream, [])
        link.restore()
        await gateway.site.orders.ended()

    assert broken.value.code == "redis_unavailable"
    assert "127.0.0.1" not in str(broken.value.body)


@pytest.fixture
def guest(server: Any, redis_url: str) -> Iterator[str]:
    """The URL of a user that may only connect."""
    server.execute_command("ACL", "SETUSER", USER, "reset", "on", ">pw", "~*", "+@connection", "+@read")
    yield redis_url.replace("redis://", f"redis://{USER}:pw@")
    server.execute_command("ACL", "DELUSER", USER)


@pytest.mark.keys_by_hand
async def test_a_redis_that_refuses_sends_the_client_to_the_operator(
    guest: str, policy: str, chat_tokenizer: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with gateway_of(guest, policy, chat_tokenizer) as gateway:
        answer = await gateway.complete()

    assert answer.status_code == 503
    assert "operator" in answer.json()["error"]["message"]
    for told in (USER, "rs:", "ACL", "127.0.0.1"):
        assert told not in answer.text
    assert USER in caplog.text


def test_no_error_of_ours_has_a_place_in_its_text() -> None:
    away = RedisUnavailableError("submit", URL, "Error 111 connecting to redis-7.internal:6380", "check the address")
    large = TooLargeForRedisError("submit", URL, "it is too large", 700, 512, "proto-max-bulk-len")
    unforeseen = LengthsFileError("/srv/secret/lengths", "no space")

    told = [problem_of(error) for error in (away, large, unforeseen)]

    assert [one.status for one in told] == [503, 413, 500]
    for one in told:
        assert "internal" not in one.problem
        assert "secret" not in one.problem
    assert "700" in told[1].problem


def test_what_a_worker_says_of_itself_is_not_passed_on() -> None:
    said = "node7-41-ab12: /srv/models/chess/adapter.safetensors is missing (http://10.2.3.4:8000/x)"
    error = GroupError(
        batch_id="b", group=0, code=ErrorCode.ADAPTER_REFUSED, field="adapter", message=said, worker="node7-41-ab12"
    )

    assert failed(error).problem == "a worker: ... is missing (...)"


def test_what_a_worker_says_of_a_request_is_told_in_its_words() -> None:
    info: Any = SimpleNamespace(vocab_size=8, max_model_len=16)
    with pytest.raises(DataError) as caught:
        check_prompt(np.ones(3, np.int32), GenerationConfig(max_new_tokens=20), info)
    said = caught.value
    error = GroupError(batch_id="b", group=0, code=said.code, field=said.field, message=str(said), worker="w")

    told = failed(error, {"max_new_tokens": "max_completion_tokens", "prompt": "messages"})

    assert (told.param, told.code) == ("messages", "context_length_exceeded")
    assert "3 prompt tokens + max_completion_tokens=20 exceed" in told.problem
    assert told.problem.endswith("max_model_len=16: shorten either")
    assert "+ max_tokens=20 exceed" in failed(error).problem


@pytest.mark.parametrize(
    "text",
    [
        "prompt: 900 tokens and max_tokens 200 are more than 1024: 'n' is 3/4 of it",
        "POST /v1/completions, GET /v1/models or /health",
        'guided.json_schema: {"$ref": "#/nowhere/at/all"} does not exist',
        "model 'p:chess@3' does not exist; batch 'gateway-12' at 12:30",
        "<tool_call>x</tool_call>",
    ],
)
def test_what_is_no_place_stays(text: str) -> None:
    assert without_places(text) == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("connecting to [fe80::1]:6379.", "connecting to ...."),
        ("read ~/models/a.json, or redis:6379", "read ..., or ..."),
        ("<function f at 0x7f00aa> at 127.0.0.1:80", "<function f at ...> at ..."),
    ],
)
def test_what_is_a_place_is_hidden(text: str, told: str) -> None:
    assert without_places(text) == told
