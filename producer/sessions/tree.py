"""A session's answered turns as a tree: the completions that nothing goes on from, and all ids before each. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas import Completion, GroupResult, Turn
from rollstream.schemas.generation.generation_config import LogprobsFlavour
from rollstream.schemas.wire.images import ImageRef, ImageSpan
from rollstream.schemas.wire.trainers.sessions import SessionTurn

from .answers import Found
from .errors import TurnCutError, TurnError, TurnMismatchError


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A turn and its answer, without what the turn before it has already."""

    turn: SessionTurn
    new_ids: NDArray[np.int32]
    """The ids that were submitted: the end of its prompt."""
    completions: dict[int, Completion]
    """By the sample."""
    flavour: LogprobsFlavour | None
    spans_exact: bool
    images: tuple[ImageRef, ...]
    """Those of all turns up to this one."""
    image_spans: tuple[ImageSpan, ...]
    """Where each of them lies in the whole prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One turn on the way to a completion, and the sample of it that the way takes."""

    answered: Answered
    sample: int

    @property
    def completion(self) -> Completion:
        """That sample."""
        return self.answered.completions[self.sample]


class Tree:
    """Turns are added in the order of the session, so a parent before its children."""

    def __init__(self, *, session: str, policy: str) -> None:
        self._session = session
        self._policy = policy
        self._answered: dict[str, Answered] = {}
        self._last: tuple[Turn | None, NDArray[np.int32]] = None, np.zeros(0, np.int32)
        self._newest: tuple[str, NDArray[np.int32]] = "", np.zeros(0, np.int32)
        """The batch that was added last and its whole prompt, so that a line of turns is not walked at each."""
        self.errors: dict[str, TurnError] = {}
        """What is wrong, by batch; a turn that goes on from such a one has the same error."""

    def add(self, turn: SessionTurn, found: Found) -> None:
        """Keep the turn if its answer goes on from its parent's, token for token; else what is wrong with it."""
        parent = turn.parent
        if parent is not None and parent.batch_id in self.errors:
            self.errors[turn.batch_id] = self.errors[parent.batch_id]
        elif isinstance(found, TurnError):
            self.errors[turn.batch_id] = found
        elif problem := self._mismatch(turn, found):
            named = self._session, self._policy, turn.completion(), turn.request_id
            self.errors[turn.batch_id] = TurnMismatchError(*named, problem)
        else:
            self._answered[turn.batch_id] = self._kept(turn, found)

    def _mismatch(self, turn: SessionTurn, result: GroupResult) -> str:
        parent = turn.parent
        if result.continued != parent:
            return f"goes on from {result.continued}, not from {parent}"
        if parent is None:
            return ""
        before = self._answered.get(parent.batch_id)
        if before is None or parent.sample not in before.completions:
            return f"goes on from {parent}, which is not there"
        prefix, prompt = self.whole(parent), result.prompt.numpy()
        if len(prompt) <= len(prefix) or not np.array_equal(prompt[: len(prefix)], prefix):
            return f"does not begin with the prompt and the completion of {parent}"
        return _other_terms(before, result)

    def _kept(self, turn: SessionTurn, result: GroupResult) -> Answered:
        start, prompt = 0 if turn.parent is None else len(self.whole(turn.parent)), result.prompt.numpy()
        self._newest = turn.batch_id, prompt
        return Answered(
            turn=turn,
            new_ids=prompt[start:].copy(),
            completions={one.sample: one for one in result.completions},
            flavour=result.logprobs_flavour,
            spans_exact=result.spans_exact,
            images=result.images,
            image_spans=result.image_spans,
        )

    def whole(self, end: Turn) -> NDArray[np.int32]:
        """All ids up to the end of this completion. Raises `TurnError` if it is none that can be used."""
        if self._last[0] == end:
            return self._last[1]
        pieces = self._pieces(end)
        self._last = end, np.concatenate([np.asarray(ids, np.int32) for ids in pieces])
        return self._last[1]

    def _pieces(self, end: Turn) -> list[Sequence[int] | NDArray[np.int32]]:
        batch, prompt = self._newest
        if batch == end.batch_id and end.sample in (there := self._answered[batch].completions):
            return [prompt, there[end.sample].token_ids]
        return [ids for step in self.path(end) for ids in (step.answered.new_ids, step.completion.token_ids)]

    def path(self, end: Turn) -> list[Step]:
        """The turns up to this completion, the first first. Raises `TurnError` if one of them cannot be used."""
        steps: list[Step] = []
        at: Turn | None = end
        while at is not None:
            if at.batch_id in self.errors:
                raise self.errors[at.batch_id]
            answered = self._answered[at.batch_id]
            if at.sample not in answered.completions:
                there = tuple(answered.completions)
                raise TurnCutError(self._session, self._policy, at, answered.turn.request_id, there)
            steps.append(Step(answered=answered, sample=at.sample))
            at = answered.turn.parent
        return steps[::-1]

    def leaves(self) -> Iterator[Turn]:
        """The completions that no turn goes on from, in the order of their turns."""
        parents = {one.turn.parent for one in self._answered.values()}
        for one in self._answered.values():
            ends = map(one.turn.completion, sorted(one.completions))
            yield from (end for end in ends if end not in parents)


def _other_terms(before: Answered, result: GroupResult) -> str:
    """What a turn has that does not go together with the turn before it; empty if it does."""
    count = len(before.images)
    if (result.images[:count], result.image_spans[:count]) != (before.images, before.image_spans):
        return f"does not have the images of {before.turn.completion()} in their places"
    if count < len(result.images) and result.image_spans[count].offset < result.prefix_length:
        return f"has an image of its own within what {before.turn.completion()} left"
    flavours = {before.flavour, result.logprobs_flavour} - {None}
    return (
        f"has {result.logprobs_flavour} log-probs, the turn before it {before.flavour} ones"
        if len(flavours) > 1
        else ""
    )
