"""New weights prove themselves while the engine runs nothing but their probe. Imports no vLLM."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from ...engine import Prove, ScoreRequest, Scores
from ...errors import DataError, ProofFailedError
from .calls import Calls


class Prover:
    """Proves one version at a time. `score` runs a row in vLLM; its second argument is the version to name."""

    def __init__(
        self, *, llm: Any, calls: Calls, score: Callable[[ScoreRequest, int], Coroutine[Any, Any, Scores]]
    ) -> None:
        self._llm = llm
        self._calls = calls
        self._score = score
        self._holding = False
        self._why_not = ""

    async def look(self) -> None:
        """Ask the engine, once, whether it can hold requests back."""
        if self._llm.vllm_config.parallel_config.data_parallel_size > 1:
            self._why_not = "requests cannot be held back with data parallelism"
        else:
            self._why_not = await self._calls.utility(self._llm.engine_core.call_utility_async("rollstream_hold_doubt"))

    def check(self, version: int) -> None:
        """Raises `ProofFailedError` if nothing can be proven in this engine."""
        if self._why_not:
            raise ProofFailedError(version, f"it was not loaded: {self._why_not}")

    async def prove(self, version: int, prove: Prove) -> None:
        """Let the paused engine go on with a probe alone. All else is held back until `release`, whatever comes of it.

        Raises what `prove` raises; `ProofFailedError` for a row that vLLM refuses, or whose log-probs are not finite.
        """
        prefix = f"rollstream-probe-{uuid.uuid4().hex}/"
        rows, scoring = itertools.count(), set[asyncio.Task[Scores]]()

        async def score(request: ScoreRequest) -> Scores:
            row = replace(request, request_id=f"{prefix}{next(rows)}")
            task = asyncio.create_task(self._calls.proof(self._score(row, version)))
            scoring.add(task)
            return await task

        self._holding = True
        await self._calls.utility(self._llm.engine_core.call_utility_async("rollstream_hold", prefix))
        await self._calls.utility(self._llm.resume_generation())
        try:
            await self._calls.stepping(prove(score), self._llm.is_sleeping)
        except DataError as error:
            raise ProofFailedError(version, f"it cannot be scored: {error}") from error
        finally:
            await _end(scoring)

    async def release(self) -> None:
        """Let all requests that are held go on, if any are."""
        if self._holding:
            await self._calls.utility(self._llm.engine_core.call_utility_async("rollstream_release"))
            self._holding = False

    @property
    def holding(self) -> bool:
        """Whether a proof has begun whose requests were not released."""
        return self._holding


async def _end(tasks: set[asyncio.Task[Scores]]) -> None:
    """Abort the rows that nobody waits for any more, before weights change again."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
