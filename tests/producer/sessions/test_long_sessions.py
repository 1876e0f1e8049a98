"""Ten thousand turns: all are there, read and masked in bounded time, and one more is refused."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from redis.asyncio import Redis

from rollstream import AsyncClient, GenerationConfig, SessionFullError
from rollstream.producer.sessions.tree import Tree
from rollstream.schemas import Batch, GroupResult, Keys, SessionTurn, Tensor, Turn, encode
from rollstream.schemas.hashes.ledger import LedgerField
from rollstream.schemas.hashes.sessions import MAX_TURNS, SessionField
from rollstream.schemas.wire.entry_fields import PAYLOAD
from tests.support.answers import KEPT_S, result_of

CONFIG = GenerationConfig(max_new_tokens=2)
DIGEST = "0" * 64


def turn_at(number: int) -> Turn:
    return Turn(batch_id=f"b{number}", group=0, sample=0)


def result_at(number: int, earlier: NDArray[np.int32]) -> GroupResult:
    """The result of the turn that has so many before it; each has one id and one reply."""
    prompt = [5, 6] * number + [5]
    goes_on: dict[str, Any] = (
        {} if not number else {"continued": turn_at(number - 1), "earlier_completions": Tensor.of(earlier)}
    )
    return result_of(0, prompt, [[6]], f"b{number}", **goes_on)


async def written(redis: Redis, policy: str, turns: int, depth: int) -> None:
    """As submits and workers would have it; only the first `depth` turns have results."""
    keys = Keys(policy)
    key = keys.session("talk")
    spans = np.array([[2 * number + 1, 1] for number in range(turns)], np.int32)
    for start in range(0, turns, 500):
        async with redis.pipeline(transaction=False) as pipe:
            for number in range(start, min(start + 500, turns)):
                parent = turn_at(number - 1) if number else None
                turn = SessionTurn(request_id=f"r{number}", batch_id=f"b{number}", digest=DIGEST, at=0.0, parent=parent)
                fields: dict[Any, Any] = {
                    SessionField.turn(number): encode(turn),
                    SessionField.of(f"b{number}"): number,
                }
                pipe.hset(key, mapping=fields)
                if number < depth:
                    batch = Batch(
                        batch_id=turn.batch_id,
                        num_groups=1,
                        num_jobs=1,
                        prompt_width=1,
                        config=CONFIG,
                        submitted_at=0.0,
                    )
                    ledger: dict[Any, Any] = {
                        LedgerField.DIGEST: DIGEST,
                        LedgerField.DESCRIPTION: encode(batch),
                        LedgerField.GROUPS: 1,
                        LedgerField.QUEUED: 1,
                        LedgerField.DONE: 1,
                    }
                    pipe.hset(keys.ledger(turn.batch_id), mapping=ledger)
                    pipe.expire(keys.ledger(turn.batch_id), KEPT_S)
                    pipe.xadd(keys.results(turn.batch_id), {PAYLOAD: encode(result_at(number, spans[:number]))})
                    pipe.expire(keys.results(turn.batch_id), KEPT_S)
            await pipe.execute()
    await redis.hset(key, mapping={SessionField.TOKEN: "t", SessionField.COUNT: turns, SessionField.BYTES: 10**6})
    await redis.expire(key, KEPT_S)


def test_a_line_of_turns_is_not_walked_again_at_each_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take minutes for ten thousand turns, and nothing else runs in the event loop meanwhile."""
    tree, turns = Tree(session="talk", policy="p"), 50
    spans = np.array([[2 * number + 1, 1] for number in range(turns)], np.int32)
    with monkeypatch.context() as patched:
        patched.delattr(Tree, "path")
        for number in range(turns):
            parent = turn_at(number - 1) if number else None
            turn = SessionTurn(request_id=f"r{number}", batch_id=f"b{number}", digest=DIGEST, at=0.0, parent=parent)
            tree.add(turn, result_at(number, spans[:number]))

    assert tree.errors == {}
    assert tree.whole(turn_at(turns - 1)).tolist() == [5, 6] * turns
    assert tree.whole(turn_at(0)).tolist() == [5, 6]


@pytest.mark.large
async def test_a_session_of_ten_thousand_turns_is_read_and_takes_no_more(
    trainer: AsyncClient, redis: Redis, policy: str
) -> None:
    depth = 1000
    await written(redis, policy, MAX_TURNS, depth)
    session, began = trainer.session("talk"), time.monotonic()
    turns = await session.turns()
    assert (len(turns), turns[-1].parent) == (MAX_TURNS, turn_at(MAX_TURNS - 2))
    assert time.monotonic() - began < 10

    began = time.monotonic()
    assert len(await session.turns()) == MAX_TURNS
    assert time.monotonic() - began < 1  # those that are known are not read again

    with pytest.raises(SessionFullError):
        await session.submit([1], CONFIG)

    began = time.monotonic()
    found = await session.trajectory(turn_at(depth - 1))
    assert time.monotonic() - began < 30
    assert len(found.turns) == depth
    assert found.input_ids.tolist() == [5, 6] * depth
    assert int(found.response_mask.sum()) == depth
