"""The log-probs of a step stay whole until they leave EngineCore; each request gets a place in them. Imports no vLLM.

vLLM cuts three arrays for each request of each step. With 256 requests that takes EngineCore, whose Python a fast GPU
waits for, longer than sampling the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_KEPT = "rollstream_keeps_steps_whole"


class StepRows:
    """A step's `LogprobsLists`, and its first columns as numbers; nothing changes it."""

    __slots__ = ("logprobs", "ranks", "rows")

    def __init__(self, *, rows: Any) -> None:
        self.rows = rows
        self.ranks: list[int] = rows.sampled_token_ranks.tolist()
        self.logprobs: list[float] = rows.logprobs[:, 0].tolist()

    def slice_request(self, request: int, positions: int) -> Place:
        """As vLLM's `LogprobsLists.slice_request`: the rows of the step's request number `request`."""
        starts = self.rows.cu_num_generated_tokens
        begin = request if starts is None else starts[request]
        return Place(step=self, begin=begin, end=begin + positions)


class Place:
    """The rows of one request in a step."""

    __slots__ = ("begin", "end", "step")

    def __init__(self, *, step: StepRows, begin: int, end: int) -> None:
        self.step = step
        self.begin = begin
        self.end = end

    @property
    def ranks(self) -> list[int]:
        """The sampled tokens' ranks."""
        return self.step.ranks[self.begin : self.end]

    @property
    def logprobs(self) -> list[float]:
        """The sampled tokens' log-probs."""
        return self.step.logprobs[self.begin : self.end]

    @property
    def columns(self) -> int:
        """Columns of the step; some may be for other requests."""
        return int(self.step.rows.logprobs.shape[1])

    def slice_request(self, request: int, positions: int) -> Place:
        """As vLLM's, from the rows of this request alone."""
        begin = self.begin + request
        return Place(step=self.step, begin=begin, end=begin + positions)

    def alone(self) -> Any:
        """The rows as vLLM's `LogprobsLists`."""
        rows, of = self.step.rows, slice(self.begin, self.end)
        return type(rows)(rows.logprob_token_ids[of], rows.logprobs[of], rows.sampled_token_ranks[of], None)


def joined(places: Sequence[Place], width: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Ids and log-probs of all places in order, each (tokens, width)."""
    ids = [place.step.rows.logprob_token_ids[place.begin : place.end, :width] for place in places]
    logprobs = [place.step.rows.logprobs[place.begin : place.end, :width] for place in places]
    return np.concatenate(ids, dtype=np.int32), np.concatenate(logprobs, dtype=np.float32)


def keep_whole(scheduler: Any) -> None:
    """Make `scheduler` (vLLM's class) give each output a `Place`, once. What leaves EngineCore must be `alone`."""
    if hasattr(scheduler, _KEPT):
        return
    setattr(scheduler, _KEPT, True)
    update = scheduler.update_from_output

    def updated(self: Any, scheduled: Any, found: Any, *args: Any, **kwargs: Any) -> Any:
        if found.logprobs is not None:
            found.logprobs = StepRows(rows=found.logprobs)
        return update(self, scheduled, found, *args, **kwargs)

    scheduler.update_from_output = updated
