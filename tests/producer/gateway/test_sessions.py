"""Turns of a session go on from the tokens that were sampled, and the trainer gets them back as one sequence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from rollstream import AsyncClient
from rollstream.producer.gateway.chat import ChatFormat
from rollstream.schemas import Job, Keys, Turn, decode
from tests.producer.gateway.test_chat import ADD, CALL, saying
from tests.support.faults import Queue
from tests.support.gateway.served import USER, Gateway, gateway_of, results_of
from tests.support.partials.partial_steps import serving

WEEK_S = 7 * 86_400
SESSION = {"x-rollstream-session": "game-7"}
MORE = {"role": "user", "content": "and two more"}


def after(answer: httpx.Response, *messages: dict[str, Any], before: list[Any] = USER) -> list[Any]:
    """The conversation with this reply, and what comes next."""
    return [*before, answer.json()["choices"][0]["message"], *messages]


async def test_turns_go_on_from_the_sampled_tokens_and_are_one_trajectory(
    gateway: Gateway, trainer: AsyncClient
) -> None:
    first = await gateway.chat(headers=SESSION, seed=1)
    two = after(first, MORE)
    second = await gateway.chat(headers=SESSION, seed=2, messages=two, stream=True, return_token_ids=True)
    assert second.text.endswith("data: [DONE]\n\n")
    trajectory = await trainer.session("game-7").trajectory()
    (one,) = await results_of(trainer, first.json()["id"])

    sampled = one.completions[0].token_ids
    ids = trajectory.input_ids.tolist()
    assert ids[: len(one.prompt_ids) + len(sampled)] == [*one.prompt_ids, *sampled]
    assert len(trajectory.turns) == 2
    assert [turn.request_id for turn in await trainer.session("game-7").turns()]


async def test_a_session_stays_as_long_as_the_gateway_was_told(
    redis_url: str, policy: str, chat_tokenizer: Path
) -> None:
    async with (
        gateway_of(redis_url, policy, chat_tokenizer, session_retention_s=WEEK_S) as gateway,
        serving(redis_url, policy, stub_vocab_size=512, stub_tokens_per_s=0),
        Redis.from_url(redis_url) as redis,
    ):
        assert (await gateway.chat(headers=SESSION)).status_code == 200
        left = await redis.ttl(Keys(policy).session("game-7"))

    assert WEEK_S - 60 <= left <= WEEK_S


async def test_a_conversation_that_was_changed_begins_again_in_the_same_session(
    gateway: Gateway, trainer: AsyncClient
) -> None:
    first = await gateway.chat(headers=SESSION)
    changed = [*USER, {"role": "assistant", "content": "no model said this"}, MORE]
    branch = await gateway.chat(headers=SESSION, messages=changed)
    other = await gateway.chat(headers={"x-rollstream-session": "game-8"}, messages=after(first, MORE))
    turns = await trainer.session("game-7").turns()

    assert (branch.status_code, other.status_code) == (200, 200)
    assert [turn.parent for turn in turns] == [None, None]
    assert len(await trainer.session("game-7").trajectories()) == 2


async def test_a_repeated_turn_is_the_same_one_though_the_session_has_gone_on(
    gateway: Gateway, trainer: AsyncClient
) -> None:
    first = await gateway.chat(headers={**SESSION, "idempotency-key": "turn-1"})
    two = after(first, MORE)
    second = await gateway.chat(headers={**SESSION, "idempotency-key": "turn-2"}, messages=two)
    third = await gateway.chat(headers=SESSION, messages=after(second, MORE, before=two))
    again = await gateway.chat(headers={**SESSION, "idempotency-key": "turn-2"}, messages=two)
    other = await gateway.chat(headers={**SESSION, "idempotency-key": "turn-2"}, messages=[MORE])

    assert third.status_code == 200
    assert again.json() == second.json()
    assert (other.status_code, other.json()["error"]["code"]) == (409, "request_id_conflict")
    assert len(await trainer.session("game-7").turns()) == 3


async def test_a_repeated_turn_goes_on_from_what_it_did_at_first_though_another_says_the_same(
    gateway: Gateway, trainer: AsyncClient
) -> None:
    first = await gateway.chat(headers=SESSION, seed=1)
    two = after(first, MORE)
    second = await gateway.chat(headers={**SESSION, "idempotency-key": "turn-2"}, messages=two)
    twin = await gateway.chat(headers=SESSION, seed=1)
    again = await gateway.chat(headers={**SESSION, "idempotency-key": "turn-2"}, messages=two)

    assert twin.json()["choices"][0]["message"] == first.json()["choices"][0]["message"]
    assert again.json() == second.json()
    turns = await trainer.session("game-7").turns()
    assert [turn.parent for turn in turns] == [None, turns[0].completion(), None]


async def test_each_of_several_samples_may_be_gone_on_from(gateway: Gateway, trainer: AsyncClient) -> None:
    first = await gateway.chat(headers=SESSION, n=3, seed=4)
    chosen = first.json()["choices"][2]["message"]
    await gateway.chat(headers=SESSION, messages=[*USER, chosen, MORE])
    turns = await trainer.session("game-7").turns()

    assert turns[1].parent == turns[0].completion(2)


async def test_of_samples_that_make_the_same_call_the_one_whose_id_was_sent_back_is_gone_on_from(
    redis_url: str, policy: str, alone: Gateway, trainer: AsyncClient, chat_tokenizer: Any
) -> None:
    async with serving(redis_url, policy, saying(CALL, chat_tokenizer), stub_vocab_size=512, stub_tokens_per_s=0):
        first = await alone.chat(headers=SESSION, n=3, seed=4, tools=[ADD], max_tokens=200)
        said = [choice["message"] for choice in first.json()["choices"]]
        tool = {"role": "tool", "tool_call_id": said[2]["tool_calls"][0]["id"], "content": "4"}
        await alone.chat(headers=SESSION, tools=[ADD], messages=[*USER, said[2], tool])
    turns = await trainer.session("game-7").turns()

    assert said[0]["tool_calls"][0]["function"] == said[2]["tool_calls"][0]["function"]
    assert turns[1].parent == turns[0].completion(2)


async def test_only_new_ids_are_queued(gateway: Gateway, queue: Queue, chat_tokenizer: Any) -> None:
    first = await gateway.chat(headers=SESSION, max_tokens=50, ignore_eos=True)
    await gateway.chat(headers=SESSION, messages=after(first, MORE))
    jobs = [decode(entry[b"payload"], Job) for _, entry in queue.entries()]
    new = ChatFormat.of(chat_tokenizer).following(after(first), [MORE], ended=False)

    assert jobs[1].prompts[0].tolist() == new
    assert jobs[1].continue_of == (Turn(batch_id=jobs[0].batch_id, group=0, sample=0),)


@pytest.mark.keys_by_hand
async def test_a_turn_whose_result_is_gone_is_not_gone_on_from(
    gateway: Gateway, trainer: AsyncClient, queue: Queue
) -> None:
    first = await gateway.chat(headers=SESSION)
    batch_id = first.json()["id"].removeprefix("chatcmpl-")
    queue.redis.delete(queue.keys.results(batch_id), queue.keys.ledger(batch_id))
    second = await gateway.chat(headers=SESSION, messages=after(first, MORE))

    assert second.status_code == 200
    assert [turn.parent for turn in await trainer.session("game-7").turns()] == [None, None]


@pytest.mark.keys_by_hand
async def test_a_repeated_turn_whose_parent_is_gone_is_a_conflict_that_says_so(
    gateway: Gateway, trainer: AsyncClient, queue: Queue
) -> None:
    first = await gateway.chat(headers=SESSION)
    asked: dict[str, Any] = {"headers": {**SESSION, "idempotency-key": "turn-2"}, "messages": after(first, MORE)}
    assert (await gateway.chat(**asked)).status_code == 200
    batch_id = first.json()["id"].removeprefix("chatcmpl-")
    queue.redis.delete(queue.keys.results(batch_id), queue.keys.ledger(batch_id))
    again = await gateway.chat(**asked)
    other = await gateway.chat(**{**asked, "messages": [MORE]})

    assert (again.status_code, again.json()["error"]["code"]) == (409, "turn_missing")
    assert "went on from" in again.json()["error"]["message"]
    assert again.headers["x-should-retry"] == "false"
    assert (other.status_code, other.json()["error"]["code"]) == (409, "request_id_conflict")
    assert len(await trainer.session("game-7").turns()) == 2


async def test_a_repeated_turn_is_the_same_one_though_many_others_asked_the_same_since(gateway: Gateway) -> None:
    first = await gateway.chat(headers=SESSION, seed=1)
    asked: dict[str, Any] = {"headers": {**SESSION, "idempotency-key": "turn-2"}, "messages": after(first, MORE)}
    second = await gateway.chat(**asked)
    for seed in range(2, 10):
        await gateway.chat(headers=SESSION, seed=seed)
    again = await gateway.chat(**asked)

    assert again.json() == second.json()


async def test_each_of_many_turns_with_the_same_messages_is_gone_on_from(
    gateway: Gateway, trainer: AsyncClient
) -> None:
    firsts = [await gateway.chat(headers=SESSION, seed=seed) for seed in range(10)]
    for first in firsts:
        assert (await gateway.chat(headers=SESSION, messages=after(first, MORE))).status_code == 200
    turns = await trainer.session("game-7").turns()

    assert [turn.parent for turn in turns[10:]] == [turn.completion() for turn in turns[:10]]
