"""One conversation from its first prompt to a completion, as one masked sequence that a trainer can learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas import Completion, Turn
from rollstream.schemas.generation.generation_config import LogprobsFlavour
from rollstream.schemas.wire.fields import FinishReason
from rollstream.schemas.wire.images import ImageRef, ImageSpan

from .tree import Step

NO_VERSION = -1
"""In `Trajectory.policy_versions` of ids that no policy sampled, or nobody knows which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrajectoryTurn:
    """Where a turn stands in its trajectory: `input_ids[start:response_start]` was submitted, and
    `input_ids[response_start:end]` is its completion.
    """

    turn: Turn
    request_id: str
    start: int
    response_start: int
    end: int
    finish_reason: FinishReason
    stop_reason: int | str | None
    note: bytes
    """What was given to `submit`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trajectory:
    """T ids: what was submitted in each turn and what was sampled, one after the other, without padding.

    Rewards are the trainer's business. `stack` makes padded tensors of several.
    """

    session: str
    leaf: Turn
    """The completion that it ends with."""
    input_ids: NDArray[np.int64]
    """(T,)"""
    attention_mask: NDArray[np.int64]
    """(T,), 1 everywhere."""
    response_mask: NDArray[np.int64]
    """(T,), 1 where the policy sampled the id; 0 for prompts, what tools said, and ids that were put there."""
    logprobs: NDArray[np.float32] | None
    """(T,), of each id that was sampled, as the worker said; 0 elsewhere. NaN where a turn asked for none; None if no
    turn asked for any."""
    logprobs_flavour: LogprobsFlavour | None
    policy_versions: NDArray[np.int64]
    """(T,), the version that sampled each id; -1 elsewhere."""
    versions_exact: bool
    """Whether the versions are known; else they are estimates, see `GroupResult.spans_exact`."""
    turns: tuple[TrajectoryTurn, ...]
    images: tuple[ImageRef, ...] = ()
    """In the order of their placeholders, which `input_ids` has in full. Without their pixels a model computes other
    log-probs: see docs/multimodal.md."""
    image_spans: tuple[ImageSpan, ...] = ()
    """Where each of them lies in `input_ids`. The id of a placeholder anywhere else was sampled, and is no image."""

    def __len__(self) -> int:
        return len(self.input_ids)

    def __repr__(self) -> str:
        sampled = int(self.response_mask.sum())
        return f"<Trajectory {self.session}: {len(self.turns)} turns, {len(self)} ids, {sampled} sampled>"


def trajectory_of(session: str, steps: Sequence[Step]) -> Trajectory:
    """Put the turns of a path together. Pure."""
    turns = _turns(steps)
    size = turns[-1].end
    ids, mask = np.zeros(size, np.int64), np.zeros(size, np.int64)
    logprobs, versions = np.zeros(size, np.float32), np.full(size, NO_VERSION, np.int64)
    for step, at in zip(steps, turns, strict=True):
        completion, response = step.completion, slice(at.response_start, at.end)
        ids[at.start : at.response_start] = step.answered.new_ids
        ids[response] = completion.token_ids
        sampled = np.ones(len(completion), np.bool_) if completion.forced is None else ~completion.forced
        mask[response] = sampled
        told = np.full(len(completion), np.nan) if completion.logprobs is None else np.array(completion.logprobs)
        logprobs[response] = np.where(sampled, told, 0.0)
        versions[response] = np.where(sampled, _versions(completion), NO_VERSION)
    flavour = next((one.answered.flavour for one in steps if one.answered.flavour is not None), None)
    return Trajectory(
        session=session,
        leaf=turns[-1].turn,
        input_ids=ids,
        attention_mask=np.ones(size, np.int64),
        response_mask=mask,
        logprobs=None if flavour is None else logprobs,
        logprobs_flavour=flavour,
        policy_versions=versions,
        versions_exact=all(step.answered.spans_exact for step in steps),
        turns=turns,
        images=steps[-1].answered.images,
        image_spans=steps[-1].answered.image_spans,
    )


def _turns(steps: Sequence[Step]) -> tuple[TrajectoryTurn, ...]:
    turns, start = list[TrajectoryTurn](), 0
    for step in steps:
        turn, response_start = step.answered.turn, start + len(step.answered.new_ids)
        end = response_start + len(step.completion)
        turns.append(
            TrajectoryTurn(
                turn=turn.completion(step.sample),
                request_id=turn.request_id,
                start=start,
                response_start=response_start,
                end=end,
                finish_reason=step.completion.finish_reason,
                stop_reason=step.completion.stop_reason,
                note=turn.note,
            )
        )
        start = end
    return tuple(turns)


def _versions(completion: Completion) -> NDArray[np.int64]:
    """(L,): the version that sampled each id; -1 everywhere if the spans are not of so many ids."""
    counts = [count for _, count in completion.version_spans]
    if sum(counts) != len(completion):
        return np.full(len(completion), NO_VERSION, np.int64)
    return np.repeat(np.array([version for version, _ in completion.version_spans], np.int64), counts)
