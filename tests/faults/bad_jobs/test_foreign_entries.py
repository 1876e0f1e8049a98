"""Entries that no producer of ours wrote harm no worker: each is answered, served or kept as a dead letter."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from redis.asyncio import Redis

from rollstream import AsyncClient
from rollstream.schemas import Envelope, Keys, encode
from tests.faults.bad_jobs.steps import CONFIG, HUGE, POLICY, answers, dead_letters, job, none_pending, pending, push
from tests.support.worker_process import until

ENVELOPES: dict[str, dict[str, Any]] = {
    "a total beyond 31 bits": {"total": "9999999999"},
    "a first group beyond 31 bits": {"first": "9999999990", "groups": "1", "total": "9999999999"},
    "a batch of 20 MB": {"batch": bytes(HUGE)},
    "twenty thousand fields": {f"field-{number}": "x" for number in range(20_000)},
}


@pytest.mark.parametrize("fields", ENVELOPES.values(), ids=ENVELOPES.keys())
async def test_an_entry_that_no_producer_wrote_does_not_harm_the_worker(
    redis: Redis, client: AsyncClient, batch_id: str, fields: dict[str, Any]
) -> None:
    entry: dict[Any, Any] = {"batch": batch_id, "job": "0", "first": "0", "groups": "1", "total": "1", "payload": "x"}
    entry.update(fields)
    await redis.xadd(Keys(POLICY).jobs(0), entry)

    good = await client.generate([[5]], None, CONFIG, timeout=30)

    assert good.errors == {}
    await until(lambda: none_pending(redis))


async def test_a_batch_whose_result_key_is_something_else_is_a_dead_letter(
    redis: Redis, client: AsyncClient, batch_id: str
) -> None:
    await redis.set(Keys(POLICY).results(batch_id), "no stream")
    await push(redis, batch_id, encode(job(batch_id)))

    good = await client.generate([[5]], None, CONFIG, timeout=20)

    assert good.errors == {}
    await until(lambda: none_pending(redis))
    assert b"UnpublishableError" in (await dead_letters(redis))[-1][b"letter"]


async def test_an_unreadable_job_whose_ledger_is_something_else_is_a_dead_letter(
    redis: Redis, client: AsyncClient, batch_id: str
) -> None:
    await redis.set(Keys(POLICY).ledger(batch_id), "no hash")
    await push(redis, batch_id, b"no job")

    good = await client.generate([[5]], None, CONFIG, timeout=20)

    assert good.errors == {}
    await until(lambda: none_pending(redis))
    assert (await dead_letters(redis))[-1][b"payload"] == b"no job"


async def test_a_job_that_requires_what_this_worker_does_not_know_is_unsupported(redis: Redis, batch_id: str) -> None:
    """An old worker would sample the text without its video: it drops the field that holds them."""
    newer = {**msgpack.unpackb(encode(job(batch_id, requires=("videos",)))), "videos": [b"\xff\xd8"]}
    await push(redis, batch_id, msgpack.packb(newer))

    found = await answers(redis, batch_id, 2)

    assert [kind for kind, _ in found] == [b"error", b"error", b"sealed"]
    errors = [answer for kind, answer in found if kind == b"error"]
    assert {(error["code"], error["field"], error["group"]) for error in errors} == {
        ("unsupported", "requires", 0), ("unsupported", "requires", 1),
    }  # fmt: skip
    assert {error["message"] for error in errors} == {
        "the job requires videos, which this worker does not know: upgrade the workers, or submit it without"
    }
    assert [error["prompt"]["shape"] for error in sorted(errors, key=lambda error: error["group"])] == [[1], [2]]
    assert await pending(redis) == 0
    assert not [letter for letter in await dead_letters(redis) if batch_id.encode() in letter[b"letter"]]


async def test_an_entry_of_a_kind_that_this_worker_does_not_know_is_unsupported(redis: Redis, batch_id: str) -> None:
    fields: Any = Envelope(batch_id=batch_id, job=0, first_group=0, job_groups=2, num_groups=2, kind="image").fields(
        b"rows of a newer producer"
    )
    await redis.xadd(Keys(POLICY).jobs(0), fields)

    errors = [answer for kind, answer in await answers(redis, batch_id, 2) if kind == b"error"]

    assert [(error["code"], error["field"]) for error in errors] == [("unsupported", "kind")] * 2
    assert "kind 'image'" in errors[0]["message"]
    assert "upgrade the workers" in errors[0]["message"]


async def test_a_valid_job_of_another_producer_is_served(redis: Redis, batch_id: str) -> None:
    await push(redis, batch_id, encode(job(batch_id)))

    assert [kind for kind, _ in await answers(redis, batch_id, expected=3)] == [b"group", b"group", b"sealed"]


async def test_an_unreadable_payload_is_kept_byte_for_byte(redis: Redis, batch_id: str) -> None:
    payload = b"\xc1 kept as " + batch_id.encode()

    await push(redis, batch_id, payload)
    await answers(redis, batch_id, expected=3)

    letter = (await dead_letters(redis))[-1]
    assert letter[b"payload"] == payload
    assert b"type 0xc1" in letter[b"letter"]


async def test_an_entry_that_names_no_batch_becomes_a_dead_letter(redis: Redis, client: AsyncClient) -> None:
    await redis.xadd(Keys(POLICY).jobs(0), {"who": "knows", "payload": b"\xff"})
    await client.generate([[5]], None, CONFIG, timeout=20)

    letter = (await dead_letters(redis))[-1]
    assert letter[b"payload"] == b"\xff"
    assert b"'batch' is missing" in letter[b"letter"]
    assert await pending(redis) == 0
