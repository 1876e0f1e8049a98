"""What an earlier turn left is read and checked; what is not there is one typed error that says what and what to do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from redis.asyncio import Redis

from rollstream.schemas import ErrorCode, GroupScores, Keys, Message, Tensor, Turn, encode
from rollstream.schemas.wire.images import ImageRef, ImageSpan
from rollstream.worker.conversations.earlier_turns import EarlierTurns
from rollstream.worker.errors import DataError
from tests.support.answers import error_of, result_of

pytestmark = pytest.mark.keys_by_hand
TURN = Turn(batch_id="b", group=1, sample=1)
IMAGE = ImageRef(sha256="0" * 64, nbytes=9, format="png", width=2, height=2)


class Batch:
    def __init__(self, redis: Redis, policy: str) -> None:
        self.redis, self.keys = redis, Keys(policy)
        self.turns = EarlierTurns(redis=redis, keys=self.keys)

    async def ledger(self, **fields: Any) -> None:
        mapping = {"groups": 2, **{name.replace("_", ":", 1): value for name, value in fields.items()}}
        await self._hset(mapping)

    async def answered(self, answer: Message | bytes, group: int = 1) -> None:
        payload = answer if isinstance(answer, bytes) else encode(answer)
        at = await self.redis.xadd(self.keys.results("b"), {"kind": "group", "payload": payload})
        await self._hset({"groups": 2, f"g:{group}": "1-0|w|1", f"at:{group}": at})

    async def _hset(self, mapping: dict[str, Any]) -> None:
        client: Any = self.redis
        await client.hset(self.keys.ledger("b"), mapping=mapping)

    async def refusal(self, turn: Turn = TURN) -> DataError:
        with pytest.raises(DataError) as caught:
            await self.turns.find(turn)
        return caught.value


@pytest.fixture
async def batch(redis: Redis, policy: str) -> AsyncIterator[Batch]:
    made = Batch(redis, policy)
    yield made
    await redis.delete(made.keys.ledger("b"), made.keys.results("b"))


async def test_a_turn_gives_its_prompt_and_that_completion(batch: Batch) -> None:
    await batch.answered(result_of(1, [5, 6], [[7], [8, 9, 2]], batch_id="b"))

    earlier = await batch.turns.find(TURN)

    assert earlier.ids.tolist() == [5, 6, 8, 9, 2]
    assert earlier.completions.tolist() == [[2, 3]]


async def test_a_turn_knows_the_completions_of_all_turns_before_it(batch: Batch) -> None:
    spans = Tensor.of(np.array([[1, 2], [4, 1]], np.int32))
    changes = {"continued": Turn(batch_id="a", group=0, sample=0), "earlier_completions": spans}
    await batch.answered(result_of(1, [1, 2, 3, 4, 5, 6], [[7], [8, 9]], batch_id="b", **changes))

    earlier = await batch.turns.find(TURN)

    assert earlier.ids.tolist() == [1, 2, 3, 4, 5, 6, 8, 9]
    assert earlier.completions.tolist() == [[1, 2], [4, 1], [6, 2]]


async def test_samples_are_found_by_their_numbers_where_some_were_cut(batch: Batch) -> None:
    kept = {"sample_index": Tensor.of(np.array([3, 1], np.int32)), "cut_lengths": Tensor.of(np.array([4], np.int32))}
    await batch.answered(result_of(1, [5], [[7], [8]], batch_id="b", **kept))

    assert (await batch.turns.find(TURN)).ids.tolist() == [5, 8]
    error = await batch.refusal(TURN.model_copy(update={"sample": 2}))
    assert "sample 2 of group 1 of batch 'b' cannot be continued: the sample was cut" in error.message
    assert error.message.endswith(": name one that it has: samples 3, 1")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (error_of(1, batch_id="b"), "its group failed (too_long: too long by far): continue another turn"),
        (result_of(1, [5], [[7]], batch_id="b"), "its group has no such sample: name one that it has: sample 0"),
        (result_of(0, [5], [[7], [8]], batch_id="b"), "its result is that of group 0"),
        (result_of(1, [5], [[7], [8]], batch_id="c"), "its result is that of group 1 of 'c'"),
        (result_of(1, [5], [[7], [8]], batch_id="b", finish_reasons=("stop", "cut")), "it was given up (cut)"),
        (result_of(1, [5], [[7], [8]], batch_id="b", finish_reasons=("stop", "abort")), "it was given up (abort)"),
        (b"\x81\xa1v\x01", "its result is no completion of a prompt"),
        (b"", "its result is no completion of a prompt"),
        (GroupScores(
            batch_id="b", group=1, logprobs=Tensor.of(np.zeros(1, np.float32)), policy_version=0, worker="w",
            queued_s=0.0, score_s=0.0,
        ), "its result is no completion of a prompt"),
    ],
    ids=["failed", "no sample", "other group", "other batch", "cut", "aborted", "no message", "nothing", "scores"],
)  # fmt: skip
async def test_a_result_that_has_no_such_completion_says_which(batch: Batch, answer: Any, why: str) -> None:
    await batch.answered(answer)

    error = await batch.refusal()

    assert (error.code, error.field) == (ErrorCode.TURN_MISSING, "continue_of")
    assert why in error.message


@pytest.mark.parametrize(
    ("ledger", "why"),
    [
        ({}, "still under way: wait for its result, then submit this under another batch_id"),
        ({"cancelled": "7"}, "its batch was cancelled"),
        ({"g_1": "cancelled", "cancelled": "7"}, "its batch was cancelled"),
        ({"g_1": "cut"}, "the group was cut"),
        ({"g_1": "1-0|w|1"}, "a worker of an older release answered it"),
        ({"g_1": "1-0|w|1", "at_1": "../../etc"}, "a worker of an older release answered it"),
        ({"g_1": "1-0|w|1", "at_1": "7-7"}, "its result is not in Redis any more"),
        ({"groups": "1"}, "its batch has 1 group, counted from 0: name one of them"),
        ({"groups": b"\xff\x1b[2J"}, "still under way"),
    ],
)
async def test_a_group_without_a_result_says_why(batch: Batch, ledger: dict[str, Any], why: str) -> None:
    await batch.ledger(**ledger)

    error = await batch.refusal()

    assert error.code is ErrorCode.TURN_MISSING
    assert why in error.message


async def test_what_to_do_follows_an_error_that_tells_of_many_others(batch: Batch) -> None:
    message = "the turn before failed"
    for _ in range(9):
        await batch.answered(error_of(1, batch_id="b").model_copy(update={"message": message}))
        message = (await batch.refusal(TURN)).message

    assert message.endswith("...): continue another turn")
    assert len(message) < 400


async def test_a_batch_that_is_gone_says_how_long_results_stay(batch: Batch) -> None:
    error = await batch.refusal()

    assert "Redis has no such batch (any more): submit the whole conversation as a prompt" in error.message
    assert "--result-ttl-s" in error.message


@pytest.mark.parametrize("key", ["ledger", "results"])
async def test_keys_of_another_type_are_one_error(batch: Batch, key: str) -> None:
    await batch.answered(result_of(1, [5], [[7], [8]], batch_id="b"))
    name = getattr(batch.keys, key)("b")
    await batch.redis.delete(name)
    await batch.redis.set(name, "x")

    error = await batch.refusal()

    assert error.code is ErrorCode.TURN_MISSING
    assert "its result cannot be read: WRONGTYPE" in error.message


async def test_a_turn_carries_its_images_on(batch: Batch) -> None:
    spans = (ImageSpan(offset=1, length=3, was=(4,), processor="9e" * 32),)
    others = tuple(span.model_copy(update={"processor": "4d" * 32}) for span in spans)
    await batch.answered(result_of(1, [5, 9, 9, 9, 6], [[7], [8]], batch_id="b", images=(IMAGE,), image_spans=spans))

    earlier = await batch.turns.find(TURN)

    assert earlier.ids.tolist() == [5, 9, 9, 9, 6, 8]
    assert earlier.submitted.tolist() == [5, 4, 6, 8]
    assert (earlier.images, earlier.completions.tolist()) == ((IMAGE,), [[5, 1]])
    earlier.check_seen(np.array([5, 9, 9, 9, 6, 8, 2], np.int32), spans)
    with pytest.raises(DataError, match="makes other ids of the images of its prompt"):
        earlier.check_seen(np.array([5, 9, 9, 6, 8, 2], np.int32), spans)
    with pytest.raises(DataError, match="makes other pixels of the images of its prompt"):
        earlier.check_seen(np.array([5, 9, 9, 9, 6, 8, 2], np.int32), others)
    new, within = (ImageSpan(offset=at, length=1, was=(4,)) for at in (6, 5))
    earlier.check_seen(np.array([5, 9, 9, 9, 6, 8, 9], np.int32), (*spans, new))
    with pytest.raises(DataError, match="takes an id that was sampled for an image"):
        earlier.check_seen(np.array([5, 9, 9, 9, 6, 8, 9], np.int32), (*spans, within))
