"""What anybody may have written to a session's keys: refused by name, no error of another kind, never a sample."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from redis.asyncio import Redis

from rollstream import (
    AsyncClient,
    GenerationConfig,
    RedisUnavailableError,
    RequestConflictError,
    TurnError,
    TurnGoneError,
    UnreadableSessionError,
)
from rollstream.producer.sessions.answers import _found
from rollstream.producer.sessions.arguments import batch_of
from rollstream.producer.sessions.scripts import Kept
from rollstream.schemas import Batch, GroupResult, Keys, SessionTurn, Turn, encode
from rollstream.schemas.hashes.ledger import LedgerField
from rollstream.schemas.hashes.sessions import SessionField
from tests.support.answers import result_of
from tests.support.told_turns import Talk

CONFIG = GenerationConfig(max_new_tokens=4)


def turn_of(batch_id: str, parent: Turn | None = None) -> bytes:
    return encode(SessionTurn(request_id="r", batch_id=batch_id, digest="0" * 64, at=0.0, parent=parent))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (SessionField.COUNT, b"-1"),
        (SessionField.COUNT, b"many"),
        (SessionField.COUNT, b"1.5"),
        (SessionField.COUNT, b"9" * 18),
        (SessionField.COUNT, b"3"),
        (SessionField.turn(0), b""),
        (SessionField.turn(1), b"\x80"),
        (SessionField.turn(1), b"\xc1" * 100),
        (SessionField.turn(1), turn_of("b", Turn(batch_id="later", group=0, sample=0))),
        (SessionField.turn(0), turn_of("b", Turn(batch_id="b", group=0, sample=0))),
    ],
)
async def test_what_no_submit_wrote_is_refused_by_its_name(
    talk: Talk, trainer: AsyncClient, redis: Redis, policy: str, field: str, value: bytes
) -> None:
    await talk.session.submit([1], CONFIG)
    await talk.session.submit([2], CONFIG, continue_of="last")
    await redis.hset(Keys(policy).session("talk"), field, value)
    for reading in (trainer.session("talk").turns, trainer.session("talk").trajectories):
        with pytest.raises(UnreadableSessionError, match="go on under another name"):
            await reading()


async def test_a_batch_that_is_two_turns_is_refused(talk: Talk, redis: Redis, policy: str) -> None:
    await talk.session.submit([1], CONFIG)
    key = Keys(policy).session("talk")
    first: Any = await redis.hget(key, SessionField.turn(0))
    await redis.hset(key, mapping={SessionField.turn(1): first, SessionField.COUNT: 2})
    with pytest.raises(UnreadableSessionError, match="as turn 0 is"):
        await talk.session.turns()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (SessionField.COUNT, b"x"),
        (SessionField.COUNT, b"1.5"),
        (SessionField.COUNT, b"nan"),
        (SessionField.BYTES, b"-1"),
    ],
)
async def test_a_count_that_is_none_stops_a_submit_before_anything_is_written(
    talk: Talk, redis: Redis, policy: str, field: str, value: bytes
) -> None:
    await talk.session.submit([1], CONFIG)
    key = Keys(policy).session("talk")
    await redis.hset(key, field, value)
    before = await redis.hgetall(key)
    with pytest.raises(UnreadableSessionError) as told:
        await talk.session.submit([2], CONFIG)
    assert (told.value.field, await redis.hgetall(key)) == (field, before)


@pytest.mark.parametrize("value", [b"\x80", b"", turn_of("b")])
async def test_a_repeat_that_finds_another_turn_in_its_place_is_refused(
    talk: Talk, redis: Redis, policy: str, value: bytes
) -> None:
    await talk.session.submit([1], CONFIG, request_id="a")
    await redis.hset(Keys(policy).session("talk"), SessionField.turn(0), value)
    with pytest.raises((UnreadableSessionError, RequestConflictError)):
        await talk.session.submit([1], CONFIG, request_id="a")


@pytest.mark.parametrize("number", [b"0", b"7"])
async def test_a_request_that_is_noted_and_is_no_turn_ends_a_submit_that_goes_on_from_the_last(
    talk: Talk, redis: Redis, policy: str, number: bytes
) -> None:
    await talk.session.submit([1], CONFIG, request_id="a")
    field = SessionField.of(batch_of("talk", "b"))
    other = turn_of(batch_of("talk", "b"))
    await redis.hset(Keys(policy).session("talk"), mapping={field: number, SessionField.turn(7): other})
    with pytest.raises(UnreadableSessionError) as told:
        async with asyncio.timeout(5):
            await talk.session.submit([2], CONFIG, request_id="b", continue_of="last")
    assert told.value.field == field


async def test_keys_of_another_type_are_refused_by_redis_and_an_index_of_one_stops_nobody(
    talk: Talk, trainer: AsyncClient, redis: Redis, policy: str
) -> None:
    keys = Keys(policy)
    await redis.set(keys.sessions(), b"x", ex=60)
    await talk.session.submit([1], CONFIG)
    await redis.set(keys.session("other"), b"x", ex=60)
    for call in (trainer.session("other").turns(), trainer.session("other").submit([1], CONFIG)):
        with pytest.raises(RedisUnavailableError, match="WRONGTYPE"):
            await call


@pytest.mark.keys_by_hand
@pytest.mark.parametrize("what", ["ledger", "results"])
async def test_a_batch_of_which_something_else_has_a_key_is_gone(
    talk: Talk, redis: Redis, policy: str, what: str
) -> None:
    (end,) = await talk.turn([1], [[10]])
    key = getattr(Keys(policy), what)(end.batch_id)
    await redis.set(key, b"x", ex=60)
    with pytest.raises(TurnGoneError, match="something else wrote the key"):
        await talk.session.trajectory()
    assert (await talk.session.submit([1], CONFIG)).batch_id != end.batch_id


@pytest.mark.parametrize(
    "changes",
    [
        {LedgerField.DESCRIPTION: b"\x80"},
        {LedgerField.GROUPS: b"2"},
        {LedgerField.DIGEST: b"1" * 64},
    ],
)
async def test_a_ledger_that_says_something_else_is_gone_and_named(
    talk: Talk, redis: Redis, policy: str, changes: dict[Any, bytes]
) -> None:
    (end,) = await talk.turn([1], [[10]])
    await redis.hset(Keys(policy).ledger(end.batch_id), mapping=changes)
    with pytest.raises(TurnGoneError) as told:
        await talk.session.trajectory()
    assert told.value.turn == end


@some.composite
def payloads(draw: Any) -> bytes:
    """Bytes like those of an answer, and others."""
    whole = encode(result_of(0, [1], [[10]], "b"))
    at = draw(some.integers(0, len(whole)))
    other: bytes = draw(some.sampled_from([b"", draw(some.binary(max_size=40)) + whole[at:]]))
    return whole[:at] + other


@given(payload=payloads())
def test_an_answer_of_any_bytes_is_an_error_of_its_turn(payload: bytes) -> None:
    turn = SessionTurn(request_id="r", batch_id="b", digest="0" * 64, at=0.0)
    batch = Batch(batch_id="b", num_groups=1, num_jobs=1, prompt_width=1, config=CONFIG, submitted_at=0.0)
    ledger = [turn.digest.encode(), encode(batch), b"1", b"1", b"1"]
    found = _found(Keys("p"), "talk", turn, ledger, [(b"1-0", {b"payload": payload})])
    assert isinstance(found, TurnError | GroupResult)


def test_results_outlive_their_session_though_they_are_renewed_from_time_to_time_only() -> None:
    for kept_for in (60, 86_400, 366 * 86_400):
        kept = Kept(keys=Keys("p"), name="talk", kept_for=kept_for, wait=0)
        assert kept.results_kept_for - 2 * kept.renewed_every >= kept_for
