"""Trajectories as padded tensors: what is trained on is what was sampled, whatever the padding."""

from __future__ import annotations

import numpy as np
import pytest

from rollstream import ArgumentError, RowsError, Trajectory, stack
from rollstream.schemas import Tensor
from rollstream.schemas.wire.images import ImageRef, ImageSpan
from tests.support.answers import result_of
from tests.support.told_turns import CONFIG, Talk


@pytest.fixture
async def trajectories(talk: Talk) -> list[Trajectory]:
    (first,) = await talk.turn([1, 2], [[10, 11]])
    await talk.turn([3], [[12]], first)
    await talk.turn([4], [[13]])
    return await talk.session.trajectories()


async def test_rows_are_padded_on_the_right_and_masks_say_what_was_sampled(trajectories: list[Trajectory]) -> None:
    batch = stack(trajectories, pad_token_id=99)
    assert batch.input_ids.tolist() == [[1, 2, 10, 11, 3, 12], [4, 13, 99, 99, 99, 99]]
    assert batch.attention_mask.tolist() == [[1] * 6, [1, 1, 0, 0, 0, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 5], [0, 1, 1, 1, 1, 1]]
    assert batch.response_mask.tolist() == [[0, 0, 1, 1, 0, 1], [0, 1, 0, 0, 0, 0]]
    assert batch.old_log_probs is not None
    assert batch.old_log_probs.tolist() == [[0, 0, -1, -1.125, 0, -1], [0, -1, 0, 0, 0, 0]]
    assert batch.policy_versions.tolist() == [[-1, -1, 0, 0, -1, 0], [-1, 0, -1, -1, -1, -1]]
    assert batch.lengths.tolist() == [6, 2]
    assert (batch.leaves, batch.sessions, len(batch)) == (tuple(one.leaf for one in trajectories), ("talk",) * 2, 2)


async def test_images_go_along_with_their_places(trajectories: list[Trajectory], talk: Talk) -> None:
    ref, span = (
        ImageRef(sha256="a" * 64, nbytes=7, format="png", width=2, height=2),
        ImageSpan(offset=1, length=2, was=(3,)),
    )
    (end,) = await talk.turn([1, 3, 3], [[3]], images=(ref,), image_spans=(span,))

    batch = stack([trajectories[0], await talk.session.trajectory(end)])

    assert (batch.images, batch.image_spans) == (((), (ref,)), ((), (span,)))
    assert (stack(trajectories).images, stack(trajectories).image_spans) == ((), ())


async def test_what_cannot_be_one_batch_is_refused(trajectories: list[Trajectory], talk: Talk) -> None:
    with pytest.raises(RowsError, match="trajectories: there is none"):
        stack([])
    with pytest.raises(RowsError, match="trajectories: each must be a Trajectory"):
        stack([1])  # type: ignore[list-item]
    for alone in (trajectories[0], None):
        with pytest.raises(RowsError, match=r"trajectories: give a list of them, not a (Trajectory|NoneType)"):
            stack(alone)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="pad_token_id"):
        stack(trajectories, pad_token_id=None)  # type: ignore[arg-type]
    handle = await talk.session.submit([5], CONFIG.model_copy(update={"logprobs": None}))
    talk.answer(handle, result_of(0, [5], [[14]], handle.batch_id, logprobs=None, logprobs_flavour=None))
    without = await talk.session.trajectories()
    with pytest.raises(RowsError, match="logprobs"):
        stack(without)
    assert stack(without[2:]).old_log_probs is None
    end = without[2].leaf
    second = await talk.session.submit([6], CONFIG, continue_of=end)
    goes_on = {"continued": end, "earlier_completions": Tensor.of(np.array([[1, 1]], np.int32))}
    talk.answer(second, result_of(0, [5, 14, 6], [[15]], second.batch_id, **goes_on))
    with pytest.raises(RowsError, match="has a turn that asked for none"):
        stack([await talk.session.trajectory((second.batch_id, 0, 0))])
