"""The turns of a session: noted before they are queued, each request once, however many submit at the same time."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from redis.asyncio import Redis

from rollstream import (
    ArgumentError,
    AsyncClient,
    BatchCancelledError,
    GenerationConfig,
    NameRefusedError,
    NoSuchTurnError,
    PromptsError,
    RequestConflictError,
    SessionFullError,
    Turn,
)
from rollstream.producer.sessions import scripts
from rollstream.producer.sessions.arguments import batch_of
from rollstream.schemas import Keys
from rollstream.schemas.hashes.sessions import MAX_SESSION_BYTES, MAX_TURNS, SessionField
from tests.support.batches import entries
from tests.support.faults import Link
from tests.support.told_turns import Talk

CONFIG = GenerationConfig(max_new_tokens=4)


async def test_turns_come_back_in_order_with_what_they_go_on_from_and_their_notes(
    trainer: AsyncClient, talk: Talk
) -> None:
    session = talk.session
    first = await session.submit([1, 2], CONFIG, request_id="a", note=b"\x00one")
    parent = Turn(batch_id=first.batch_id, group=0, sample=0)
    second = await session.submit([3], CONFIG, continue_of=parent, request_id="b")

    turns = await trainer.session("talk").turns()  # another process'
    assert [(one.request_id, one.batch_id, one.parent, one.note, one.samples) for one in turns] == [
        ("a", first.batch_id, None, b"\x00one", 1),
        ("b", second.batch_id, parent, b"", 1),
    ]
    assert turns[0].completion() == parent
    assert await trainer.session("other").turns() == ()


async def test_the_last_turn_is_what_a_turn_goes_on_from_if_it_asks_for_it(talk: Talk) -> None:
    with pytest.raises(NoSuchTurnError, match="leave continue_of out"):
        await talk.session.submit([1], CONFIG, continue_of="last")
    await talk.session.submit([1], CONFIG)
    await talk.session.submit([2], CONFIG, continue_of="last")
    first, second = await talk.session.turns()
    assert second.parent == first.completion()


async def test_the_last_of_several_completions_has_to_be_named(talk: Talk) -> None:
    await talk.session.submit([1], GenerationConfig(max_new_tokens=4, num_return_sequences=2))
    with pytest.raises(ArgumentError, match="has 2 completions: name one"):
        await talk.session.submit([2], CONFIG, continue_of="last")


async def test_a_request_that_is_repeated_is_the_same_batch(talk: Talk, trainer: AsyncClient) -> None:
    await talk.session.submit([9], CONFIG)
    first = await talk.session.submit([1], CONFIG, request_id="a", continue_of="last", note=b"first")
    await talk.session.submit([2], CONFIG, continue_of="last")  # "last" is another turn by now
    again = await trainer.session("talk").submit([1], CONFIG, request_id="a", continue_of="last", note=b"second")
    assert (again, again.is_repeat) == (first, True)
    assert [one.note for one in await talk.session.turns()] == [b"", b"first", b""]


@pytest.mark.parametrize("how", ["ids", "config", "adapter"])
async def test_a_request_with_other_content_is_refused_and_changes_nothing(talk: Talk, how: str) -> None:
    first = await talk.session.submit([1], CONFIG, request_id="a")
    with pytest.raises(RequestConflictError, match="request 'a' was submitted with other content") as told:
        await talk.session.submit(
            [2] if how == "ids" else [1],
            GenerationConfig(max_new_tokens=5) if how == "config" else CONFIG,
            request_id="a",
            adapter="math@1" if how == "adapter" else None,
        )
    assert told.value.request_id == "a"
    assert [one.batch_id for one in await talk.session.turns()] == [first.batch_id]


async def test_the_same_request_id_in_another_session_is_another_request(talk: Talk, trainer: AsyncClient) -> None:
    first = await talk.session.submit([1], CONFIG, request_id="a")
    other = await trainer.session("other").submit([1], CONFIG, request_id="a")
    assert first != other


async def test_gateways_that_submit_at_once_lose_no_turn_and_make_none_twice(
    redis_url: str, policy: str, trainer: AsyncClient
) -> None:
    async with AsyncClient(redis_url, policy=policy) as other:
        sessions = [trainer.session("talk"), other.session("talk")]
        first = await sessions[0].submit([7], CONFIG, request_id="first")
        parent = Turn(batch_id=first.batch_id, group=0, sample=0)
        await asyncio.gather(
            *(
                session.submit([number], CONFIG, request_id=f"r{number}", continue_of=parent)
                for number in range(20)
                for session in sessions
            )
        )
        each = [await session.turns() for session in sessions]
    assert each[0] == each[1]
    assert sorted(one.request_id for one in each[0][1:]) == sorted(f"r{number}" for number in range(20))


async def test_turns_that_go_on_from_the_last_at_once_become_one_line(
    redis_url: str, policy: str, trainer: AsyncClient
) -> None:
    async with AsyncClient(redis_url, policy=policy) as other:
        sessions = [trainer.session("talk"), other.session("talk")]
        await sessions[0].submit([7], CONFIG)
        await asyncio.gather(
            *(session.submit([number], CONFIG, continue_of="last") for number in range(5) for session in sessions)
        )
        turns = await sessions[0].turns()
    assert [one.parent for one in turns] == [None, *(one.completion() for one in turns[:-1])]


async def test_a_turn_that_goes_on_from_itself_is_refused_before_anything_is_noted(talk: Talk) -> None:
    with pytest.raises(PromptsError, match="which is this one"):
        await talk.session.submit([1], CONFIG, request_id="a", continue_of=(batch_of("talk", "a"), 0, 0))
    assert await talk.session.turns() == ()


async def test_a_turn_of_another_session_is_refused_before_anything_is_queued(
    talk: Talk, trainer: AsyncClient, server: object, policy: str
) -> None:
    handle = await trainer.session("other").submit([1], CONFIG)
    for parent in ((handle.batch_id, 0, 0), ("batch", 1, 0)):
        with pytest.raises(NoSuchTurnError):
            await talk.session.submit([2], CONFIG, continue_of=parent)
    assert await talk.session.turns() == ()
    assert len(entries(server, policy)) == 1


async def test_a_turn_that_redis_refuses_is_taken_back(talk: Talk) -> None:
    handle = await talk.session.submit([1], CONFIG, request_id="a")
    await handle.cancel()
    with pytest.raises(BatchCancelledError):
        await talk.session.submit([1], CONFIG, request_id="a")
    assert len(await talk.session.turns()) == 1  # it was there before


async def test_an_intent_is_taken_back_when_its_batch_belongs_to_others(talk: Talk, trainer: AsyncClient) -> None:
    await trainer.submit([[5]], None, CONFIG, batch_id=batch_of("talk", "a"))
    with pytest.raises(RequestConflictError):
        await talk.session.submit([1], CONFIG, request_id="a")
    assert await talk.session.turns() == ()
    await talk.session.submit([1], CONFIG, request_id="b")
    assert [one.request_id for one in await trainer.session("talk").turns()] == ["b"]


async def test_a_reply_that_is_lost_notes_and_queues_a_turn_once(link: Link, faulty: AsyncClient, policy: str) -> None:
    session = faulty.session("talk")
    await session.submit([1], CONFIG)
    for call in (scripts.APPEND.sha.encode(), b"prompt_ids"):
        link.lose_reply(to=call)
        await session.submit([2], CONFIG, continue_of="last")
        assert link.lost
    turns = await session.turns()
    assert [one.parent for one in turns] == [None, *(one.completion() for one in turns[:-1])]


@pytest.mark.parametrize(
    ("field", "value"),
    [(SessionField.COUNT, MAX_TURNS), (SessionField.BYTES, MAX_SESSION_BYTES)],
)
async def test_a_full_session_takes_no_more_turns_and_repeats_those_it_has(
    talk: Talk, redis: Redis, policy: str, server: object, field: str, value: int
) -> None:
    await talk.session.submit([1], CONFIG, request_id="a")
    await redis.hset(Keys(policy).session("talk"), field, value)
    with pytest.raises(SessionFullError, match="go on under another name"):
        await talk.session.submit([2], CONFIG)
    assert (await talk.session.submit([1], CONFIG, request_id="a")).is_repeat
    assert len(entries(server, policy)) == 1


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"request_id": "a b"}, "request_id"),
        ({"request_id": "x" * 201}, "request_id"),
        ({"request_id": 7}, "request_id"),
        ({"note": b"x" * 65_537}, "note"),
        ({"note": "text"}, "note"),
        ({"continue_of": "first"}, "continue_of"),
        ({"continue_of": ("b", 0)}, "continue_of"),
        ({"continue_of": ("../b", 0, 0)}, "continue_of"),
        ({"batch_id": "b"}, "batch_id"),
        ({"new_ids": [[1, 2]]}, "new_ids"),
        ({"new_ids": "ab"}, "new_ids"),
        ({"new_ids": []}, "new_ids"),
        ({"new_ids": np.empty(0, np.int64)}, "new_ids"),
    ],
)
async def test_a_bad_argument_is_refused_by_its_name(talk: Talk, changes: dict[str, Any], name: str) -> None:
    with pytest.raises(ArgumentError) as told:
        await talk.session.submit(**{"new_ids": [1], "config": CONFIG, **changes})
    assert told.value.name == name
    assert await talk.session.turns() == ()


async def test_names_and_times_of_sessions_are_checked(trainer: AsyncClient) -> None:
    with pytest.raises(NameRefusedError):
        trainer.session("a:b")
    with pytest.raises(ArgumentError, match="retention_s"):
        trainer.session("a", retention_s=5)
    assert len((await trainer.session("x" * 128).submit([1], CONFIG)).batch_id) <= 128
