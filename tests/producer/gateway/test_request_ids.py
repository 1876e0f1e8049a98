"""The same request id has the same answer, whatever happened in between."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.faults import Link, Queue
from tests.support.gateway.served import Gateway, gateway_of
from tests.support.partials.partial_steps import serving

ID = {"idempotency-key": "step-7"}


async def test_the_same_id_gives_the_same_answer_and_other_content_is_a_conflict(gateway: Gateway) -> None:
    first = await gateway.complete(headers=ID)
    again = await gateway.complete(headers=ID)
    by_proxy = await gateway.complete(headers={**ID, "x-request-id": "the-proxys-own"})
    other = await gateway.complete(headers=ID, max_tokens=9)

    assert first.status_code == 200
    assert first.json() == again.json() == by_proxy.json()
    assert first.headers["x-request-id"] == "step-7"
    assert (other.status_code, other.json()["error"]["code"]) == (409, "request_id_conflict")
    assert other.headers["x-should-retry"] == "false"


async def test_two_requests_without_an_id_are_two_batches(gateway: Gateway) -> None:
    answers = [await gateway.complete() for _ in range(2)]
    assert answers[0].json()["id"] != answers[1].json()["id"]
    assert answers[0].headers["x-request-id"] != answers[1].headers["x-request-id"]


@pytest.mark.parametrize("headers", [ID, {}])
async def test_without_a_worker_time_ends_and_the_same_id_has_the_answer_later(
    redis_url: str, policy: str, chat_tokenizer: Path, queue: Queue, headers: dict[str, str]
) -> None:
    async with gateway_of(redis_url, policy, chat_tokenizer, timeout_s=0.3) as gateway:
        late = await gateway.complete(headers=headers)
        error = late.json()["error"]
        await gateway.site.orders.ended()
        is_cancelled = queue.redis.hexists(queue.keys.ledger(error["batch_id"]), "cancelled")

    assert (late.status_code, error["code"]) == (504, "timeout")
    assert error["batch_id"] in error["message"]
    assert error["message"].endswith("; no worker serves this model, the gateway's log has more")
    assert is_cancelled == (not headers)
    if headers:
        async with (
            serving(redis_url, policy, stub_vocab_size=512, stub_tokens_per_s=0),
            gateway_of(redis_url, policy, chat_tokenizer) as another,
        ):
            answer = await another.complete(headers=headers)
        assert answer.json()["id"] == f"cmpl-{error['batch_id']}"


async def test_without_redis_a_request_is_answered_at_once_and_later_again(
    link: Link, policy: str, chat_tokenizer: Path
) -> None:
    async with gateway_of(link.url, policy, chat_tokenizer, reconnect_s=0.2) as gateway:
        assert (await gateway.http.get("/health")).status_code == 200
        link.drop()
        refused = await gateway.complete()
        health = await gateway.http.get("/health")
        link.restore()
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "redis_unavailable")
        assert int(refused.headers["retry-after"]) > 0
        assert health.status_code == 503
        assert (await gateway.http.get("/health")).status_code == 200


async def test_an_id_that_is_none_is_refused(alone: Gateway) -> None:
    for given in ("", "a b", "é", "x" * 201, "a\tb"):
        answer = await alone.complete(headers={"idempotency-key": given.encode("latin-1")})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "idempotency-key"), given
