"""Several engines of one worker pass or fail a proof together."""

from __future__ import annotations

import asyncio

from ..engine import Prove, Score
from ..errors import ProofFailedError


class Verdict:
    """What becomes of a version that `parties` engines have to prove: all pass, or none.

    Each engine calls `prove` or `fail`, all in one event loop; the last proof or the first failure decides, once.
    """

    def __init__(self, *, version: int, parties: int, prove: Prove) -> None:
        self._version = version
        self._missing = parties
        self._prove = prove
        self._decided = asyncio.Event()
        self.cause: Exception | None = None
        """Why none passes; None while that is not known, and if all pass."""

    async def prove(self, score: Score) -> None:
        """A `Prove` for one engine: returns once all have passed. Raises `ProofFailedError` after another's failure."""
        try:
            await self._prove(score)
        except Exception as error:
            self.fail(error)
            raise
        self._missing -= 1
        if not self._missing:
            self._decided.set()
        await self._decided.wait()
        if self.cause is not None:
            problem = f"another engine of this worker cannot serve it: {self.cause}"
            raise ProofFailedError(self._version, problem) from self.cause

    def fail(self, error: Exception) -> None:
        """Let none pass, unless all have."""
        if not self._decided.is_set():
            self.cause = error
            self._decided.set()
