"""A session's turns as masked sequences: each id as it was sampled, or an error that names what is in the way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from redis.asyncio import Redis

from rollstream import (
    ArgumentError,
    AsyncClient,
    Client,
    GenerationConfig,
    NoSuchTurnError,
    NotOneLeafError,
    SessionError,
    Trajectory,
    Turn,
    TurnCutError,
    TurnError,
    TurnFailedError,
    TurnGoneError,
    TurnMismatchError,
    TurnUnfinishedError,
    UnknownSessionError,
)
from rollstream.schemas import Keys, Tensor
from rollstream.schemas.wire.images import ImageRef, ImageSpan
from tests.support.answers import result_of
from tests.support.told_turns import CONFIG, Talk


def ids(trajectory: Trajectory) -> list[int]:
    return [int(one) for one in trajectory.input_ids]


async def test_a_line_of_turns_is_one_sequence_with_a_mask_of_what_was_sampled(talk: Talk) -> None:
    (first,) = await talk.turn([1, 2, 3], [[10, 11]], request_id="a", version_spans=(((4, 1), (5, 1)),))
    (last,) = await talk.turn([20], [[30, 31, 32]], first, "b", version_spans=(((6, 3),),), finish_reasons=("length",))

    found = await talk.session.trajectory()

    assert (found.session, found.leaf) == ("talk", last)
    assert ids(found) == [1, 2, 3, 10, 11, 20, 30, 31, 32]
    assert found.attention_mask.tolist() == [1] * 9
    assert found.response_mask.tolist() == [0, 0, 0, 1, 1, 0, 1, 1, 1]
    assert found.policy_versions.tolist() == [-1, -1, -1, 4, 5, -1, 6, 6, 6]
    assert found.logprobs is not None
    assert found.logprobs.tolist() == [0, 0, 0, -1, -1.125, 0, -1, -1.125, -1.25]
    assert (found.logprobs_flavour, found.versions_exact) == ("processed", True)
    assert [(one.turn, one.request_id, one.start, one.response_start, one.end) for one in found.turns] == [
        (first, "a", 0, 3, 5),
        (last, "b", 5, 6, 9),
    ]
    assert [(one.finish_reason, one.stop_reason) for one in found.turns] == [("stop", 11), ("length", 32)]


async def test_ids_that_were_put_there_are_not_what_the_policy_sampled(talk: Talk) -> None:
    forced = Tensor.of(np.array([[False, True, False]]))
    await talk.turn([1], [[7, 8, 9]], forced_mask=forced)
    found = await talk.session.trajectory()
    assert found.response_mask.tolist() == [0, 1, 0, 1]
    assert found.policy_versions.tolist() == [-1, 0, -1, 0]
    assert found.logprobs is not None
    assert found.logprobs[2] == 0


async def test_every_completion_that_nothing_goes_on_from_ends_a_trajectory(talk: Talk) -> None:
    first = await talk.turn([1], [[10], [11], [12]])
    (second,) = await talk.turn([2], [[20]], first[1])
    third = await talk.turn([3], [[30], [31]], second)
    (other,) = await talk.turn([4], [[40]], first[1])

    found = await talk.session.trajectories()

    assert [one.leaf for one in found] == [first[0], first[2], *third, other]
    assert [ids(one) for one in found] == [
        [1, 10],
        [1, 12],
        [1, 11, 2, 20, 3, 30],
        [1, 11, 2, 20, 3, 31],
        [1, 11, 4, 40],
    ]
    with pytest.raises(NotOneLeafError) as told:
        await talk.session.trajectory()
    assert told.value.leaves == (first[0], first[2], *third, other)
    assert str(other) in str(told.value)
    assert ids(await talk.session.trajectory(second)) == [1, 11, 2, 20]
    assert ids(await talk.session.trajectory((other.batch_id, 0, 0))) == [1, 11, 4, 40]


async def test_conversations_without_a_turn_before_them_are_trajectories_of_their_own(talk: Talk) -> None:
    await talk.turn([1], [[10]])
    await talk.turn([2], [[20]])
    assert [ids(one) for one in await talk.session.trajectories()] == [[1, 10], [2, 20]]


async def test_a_turn_under_way_is_named_until_it_is_answered_or_skipped(talk: Talk) -> None:
    (first,) = await talk.turn([1], [[10]])
    handle = await talk.session.submit([2], CONFIG, continue_of=first, request_id="late")
    for reading in (talk.session.trajectory, talk.session.trajectories):
        with pytest.raises(TurnUnfinishedError, match=r"turn 'late' .* is under way: wait for it") as told:
            await reading()
        assert (told.value.request_id, told.value.turn.batch_id) == ("late", handle.batch_id)
    assert ids(await talk.session.trajectory(skip=TurnUnfinishedError)) == [1, 10]

    talk.answer(handle, result_of(0, [1, 10, 2], [[20]], handle.batch_id, **talk.goes_on(first)))
    assert ids(await talk.session.trajectory()) == [1, 10, 2, 20]


async def test_a_failed_turn_is_named_and_leaves_what_was_tried_again(talk: Talk) -> None:
    (first,) = await talk.turn([1], [[10]])
    failed = await talk.failed([2], first, "broken")
    (again,) = await talk.turn([2], [[20]], first)
    with pytest.raises(TurnFailedError, match=r"turn 'broken' .* failed .too_long: too long by far") as told:
        await talk.session.trajectory()
    assert (told.value.turn, told.value.code) == (failed, "too_long")
    assert (await talk.session.trajectory(skip=TurnFailedError)).leaf == again
    with pytest.raises(TurnFailedError):
        await talk.session.trajectory(failed)
    assert ids(await talk.session.trajectory(again)) == [1, 10, 2, 20]


async def test_with_the_failed_turn_left_out_the_one_before_it_is_the_end(talk: Talk) -> None:
    (first,) = await talk.turn([1], [[10]])
    await talk.failed([2], first)
    assert (await talk.session.trajectory(skip=TurnError)).leaf == first


async def test_a_turn_whose_results_are_gone_is_named_with_what_goes_on_from_it(
    talk: Talk, redis: Redis, policy: str
) -> None:
    (first,) = await talk.turn([1], [[10]], request_id="gone")
    (second,) = await talk.turn([2], [[20]], first)
    (other,) = await talk.turn([3], [[30]])
    keys = Keys(policy)
    await redis.delete(keys.results(first.batch_id))
    with pytest.raises(TurnGoneError, match=r"turn 'gone' .* has lost its results: repeat its submit"):
        await talk.session.trajectories()
    await redis.delete(keys.ledger(first.batch_id))
    with pytest.raises(TurnGoneError, match=r"turn 'gone' .* was never queued, or its results are gone") as told:
        await talk.session.trajectory(second)
    assert told.value.turn == first
    assert [one.leaf for one in await talk.session.trajectories(skip=(TurnGoneError, TurnFailedError))] == [other]


async def test_a_completion_that_was_cut_is_named_and_those_that_are_there_are_trajectories(talk: Talk) -> None:
    config = GenerationConfig(max_new_tokens=8, num_return_sequences=3, first_k=2)
    handle = await talk.session.submit([1], config)
    there = Tensor.of(np.array([0, 2], np.int32))
    cut = Tensor.of(np.array([5], np.int32))
    answer = result_of(0, [1], [[10], [12]], handle.batch_id, sample_index=there, cut_lengths=cut)
    talk.answer(handle, answer)
    assert [(one.leaf.sample, ids(one)) for one in await talk.session.trajectories()] == [(0, [1, 10]), (2, [1, 12])]
    with pytest.raises(TurnCutError, match="only those of samples 0, 2") as told:
        await talk.session.trajectory((handle.batch_id, 0, 1))
    assert told.value.there == (0, 2)


@pytest.mark.parametrize(
    ("prompt", "problem"),
    [
        ([1, 11, 2], "does not begin with the prompt and the completion"),
        ([2, 10, 2], "does not begin with the prompt and the completion"),
        ([2], "goes on from None, not from sample 0"),
    ],
)
async def test_a_prompt_that_does_not_begin_with_what_came_before_is_never_trained_on(
    talk: Talk, prompt: list[int], problem: str
) -> None:
    (first,) = await talk.turn([1], [[10]])
    handle = await talk.session.submit([2], CONFIG, continue_of=first)
    goes_on = talk.goes_on(first) if len(prompt) > 1 else {}
    talk.answer(handle, result_of(0, prompt, [[20]], handle.batch_id, **goes_on))
    with pytest.raises(TurnMismatchError, match=problem):
        await talk.session.trajectories()
    assert [ids(one) for one in await talk.session.trajectories(skip=TurnMismatchError)] == [[1, 10]]


async def test_log_probs_of_another_flavour_in_one_conversation_are_refused(talk: Talk) -> None:
    (first,) = await talk.turn([1], [[10]])
    await talk.turn([2], [[20]], first, logprobs_flavour="raw")
    with pytest.raises(TurnMismatchError, match="has raw log-probs, the turn before it processed ones"):
        await talk.session.trajectory()


async def test_a_trajectory_has_the_images_of_all_its_turns_or_is_refused(talk: Talk) -> None:
    first_image, second_image = (
        ImageRef(sha256=digit * 64, nbytes=7, format="png", width=2, height=2) for digit in "ab"
    )
    spans = [ImageSpan(offset=at, length=1, was=(1,)) for at in (0, 2)]
    (first,) = await talk.turn([1], [[10]], images=(first_image,), image_spans=tuple(spans[:1]))
    both: dict[str, Any] = {"images": (first_image, second_image), "image_spans": tuple(spans)}
    (second,) = await talk.turn([2], [[20]], first, None, **both)
    found = await talk.session.trajectory(second)
    assert (found.images, found.image_spans) == ((first_image, second_image), tuple(spans))
    elsewhere = (spans[0].model_copy(update={"was": (2,)}),)
    moved: dict[str, Any] = {"images": (first_image,), "image_spans": elsewhere}
    for changes in ({}, moved):
        (other,) = await talk.turn([3], [[30]], first, None, **changes)
        with pytest.raises(TurnMismatchError, match="does not have the images of"):
            await talk.session.trajectory(other)
    within: dict[str, Any] = {"images": (first_image, second_image)}
    within["image_spans"] = (spans[0], ImageSpan(offset=1, length=1, was=(1,)))
    (third,) = await talk.turn([3], [[30]], first, None, **within)
    with pytest.raises(TurnMismatchError, match="has an image of its own within"):
        await talk.session.trajectory(third)


async def test_a_turn_that_asked_for_no_log_probs_has_none(talk: Talk) -> None:
    config = CONFIG.model_copy(update={"logprobs": None})
    handle = await talk.session.submit([1], config)
    talk.answer(handle, result_of(0, [1], [[10]], handle.batch_id, logprobs=None, logprobs_flavour=None))
    assert (await talk.session.trajectory()).logprobs is None
    end = Turn(batch_id=handle.batch_id, group=0, sample=0)
    second = await talk.session.submit([2], CONFIG, continue_of=end)
    earlier = Tensor.of(np.array([[1, 1]], np.int32))
    goes_on = {"continued": end, "earlier_completions": earlier}
    talk.answer(second, result_of(0, [1, 10, 2], [[20]], second.batch_id, **goes_on))
    found = await talk.session.trajectory()
    assert found.logprobs is not None
    assert np.isnan(found.logprobs).tolist() == [False, True, False, False]


async def test_a_session_or_a_turn_that_is_not_there_is_said_so(talk: Talk, trainer: AsyncClient) -> None:
    with pytest.raises(UnknownSessionError):
        await talk.session.trajectory()
    (first,) = await talk.turn([1], [[10]])
    with pytest.raises(UnknownSessionError):
        await trainer.session("other").trajectories()
    for leaf in (Turn(batch_id="none", group=0, sample=0), (first.batch_id, 1, 0)):
        with pytest.raises(NoSuchTurnError):
            await talk.session.trajectory(leaf)
    for skip in (ValueError, SessionError, "failed"):
        with pytest.raises(ArgumentError, match="skip"):
            await talk.session.trajectories(skip=skip)  # type: ignore[arg-type]


async def test_only_failed_turns_make_no_trajectory(talk: Talk) -> None:
    await talk.failed([1])
    assert await talk.session.trajectories(skip=TurnFailedError) == []
    with pytest.raises(NotOneLeafError, match="none of its turns can be used"):
        await talk.session.trajectory(skip=TurnFailedError)


def test_blocking_calls_give_the_same(client: Client, redis_url: str, policy: str) -> None:
    session = client.session("talk")
    handle = session.submit([1, 2], CONFIG, request_id="a", note=b"n")
    Talk.answer(_by_hand(redis_url, policy), handle, result_of(0, [1, 2], [[10]], handle.batch_id))  # type: ignore[arg-type]
    assert [one.note for one in session.turns()] == [b"n"]
    assert ids(session.trajectory()) == [1, 2, 10] == ids(session.trajectories()[0])
    assert session.name == "talk"


def _by_hand(redis_url: str, policy: str) -> Any:
    talk = Talk.__new__(Talk)
    talk._url, talk._policy = redis_url, policy
    return talk
