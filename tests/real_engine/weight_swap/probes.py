"""A probe of a checkpoint, and the question whether loaded weights reproduce it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import numpy as np

from rollstream.worker.engine import Score
from rollstream.worker.errors import ProofFailedError
from rollstream.worker.requests import ScoreRequest
from tests.support.engine.transformers_reference import Reference

ROWS = [[(i * step) % 500 + 3 for i in range(100)] for step in (37, 41, 43)]


class Proof:
    """A `Prove` that notes the versions that were named to it, how far off they were, and how long it took."""

    def __init__(self, reference: Reference, rows: Sequence[list[int]] = ROWS) -> None:
        self._known = [(row, reference.logprobs(row[:1], row[1:])) for row in rows]
        self.versions: set[int] = set()
        self.mean = float("nan")
        self.seconds = float("nan")

    async def __call__(self, score: Score) -> None:
        began = time.monotonic()
        rows = [row for row, _ in self._known]
        found = await asyncio.gather(*(score(asked(row)) for row in rows))
        self.seconds = time.monotonic() - began
        self.versions = {scores.version for scores in found}
        off = np.abs(np.concatenate([a.logprobs - known for a, (_, known) in zip(found, self._known, strict=True)]))
        self.mean = float(off.mean())
        if self.mean > 0.002 or off.max() > 0.05:
            raise ProofFailedError(max(self.versions), "it is wrong", self.mean, float(off.max()))


def asked(row: list[int]) -> ScoreRequest:
    return ScoreRequest(request_id="probe", token_ids=row, first=1, top_logprobs=0, adapter=None)
