"""New weights prove themselves while the engine runs nothing but their probe. Imports no vLLM."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Callable, Collection, Coroutine
from dataclasses import replace
from typing import Any

import numpy as np
import structlog

from rollstream.schemas.wire.proofs.probe import TOLERANCES

from ....engine import Prove
from ....errors import DataError, ProofFailedError, UnprovableError
from ....requests import ScoreRequest, Scores
from ..calls import Calls

_ROWS, _LENGTH = 3, 64

log = structlog.get_logger()


class Prover:
    """Proves one version at a time. `score` runs a row in vLLM; its second argument is the version to name.

    It remembers the rows of the last proof that passed, with their scores, while those weights serve: after a failed
    swap the same rows show whether the old weights are what they were. Weights that were not proven here have no such
    rows until a swap away from them begins: then `note` scores some. The swapper alone calls it.
    """

    def __init__(
        self, *, llm: Any, calls: Calls, score: Callable[[ScoreRequest, int], Coroutine[Any, Any, Scores]]
    ) -> None:
        self._llm = llm
        self._calls = calls
        self._score = score
        self._why_not = ""
        self._mixes = False
        self._prefix = ""
        self._numbers = itertools.count()
        self._known: list[tuple[ScoreRequest, Scores]] = []
        self.holding = False
        """Whether requests are held back, and were not released."""
        self.experts_reached: tuple[int, int] | None = None
        """See `Engine.experts_reached`."""

    async def look(self) -> None:
        """Ask the engine, once, whether it can hold requests back, and whether it can tell which experts it uses."""
        parallel = self._llm.vllm_config.parallel_config
        if parallel.pipeline_parallel_size == 1:  # else no process has all layers
            self._mixes = all(await self._asked("rollstream_mixes_experts"))
        if parallel.data_parallel_size > 1:
            self._why_not = "requests cannot be held back with data parallelism"
        else:
            self._why_not = await self._calls.utility(self._llm.engine_core.call_utility_async("rollstream_hold_doubt"))

    def check(self, version: int) -> None:
        """Raises `UnprovableError` if nothing can be proven in this engine."""
        if self._why_not:
            raise UnprovableError(version, f"it was not loaded: {self._why_not}")

    @property
    def can_hold(self) -> bool:
        """Whether this engine can hold requests back, so that weights can be looked at before they sample."""
        return not self._why_not

    @property
    def knows(self) -> bool:
        """Whether there are rows by which the weights that serve can be known again."""
        return bool(self._known)

    async def hold(self) -> None:
        """Hold all requests of the paused engine back until `release`; no-op if they are held."""
        if self.holding:
            return
        self._prefix, self._numbers = f"rollstream-probe-{uuid.uuid4().hex}/", itertools.count()
        self.holding = True
        await self._calls.utility(self._llm.engine_core.call_utility_async("rollstream_hold", self._prefix))

    async def note(self, version: int) -> None:
        """Hold requests back, and score a few rows under the weights of `version`, which serve.

        The engine is no longer paused then. Weights whose log-probs are not finite cannot be known again.
        """
        await self.hold()
        rows = self._seeded_rows()
        try:
            self._known = list(zip(rows, await self._scored(rows, version), strict=True))
        except DataError as error:
            log.warning("weights cannot be known again after a failed swap", version=version, why=str(error))

    async def prove(self, version: int, prove: Prove) -> None:
        """Let the paused engine go on with a probe alone. All else is held back until `release`, whatever comes of it.

        Raises what `prove` raises; `ProofFailedError` for a row that vLLM refuses, or whose log-probs are not finite.
        """
        scoring = set[asyncio.Task[Scores]]()
        found: list[tuple[ScoreRequest, Scores]] = []
        reached = None

        async def score(request: ScoreRequest) -> Scores:
            task = asyncio.create_task(self._row(request, version))
            scoring.add(task)
            scores = await task
            found.append((request, scores))
            return scores

        await self.hold()
        if self._mixes:
            await self._asked("rollstream_watch_experts")
        await self._calls.utility(self._llm.resume_generation())
        try:
            await self._calls.stepping(prove(score), self._llm.is_sleeping)
        except DataError as error:
            raise ProofFailedError(version, f"it cannot be scored: {error}") from error
        finally:
            await _end(scoring)
            if self._mixes:
                tokens = sum(len(row.token_ids) for row, _ in found)
                said = (await self._asked("rollstream_experts_reached", tokens))[0]
                reached = None if said is None else (said[0], said[1])  # a tuple arrives as a list
        self._known, self.experts_reached = found, reached

    async def confirm(self, version: int) -> None:
        """After the engine went back to the weights of `version`, while requests are held: are they what they were?

        Raises RuntimeError if they are not, and nothing if no rows of theirs are known.
        """
        if not self._known:
            return
        found = await self._scored([row for row, _ in self._known], version)
        old = np.concatenate([scores.logprobs for _, scores in self._known])
        off = float(np.abs(np.concatenate([scores.logprobs for scores in found]) - old).mean())
        dtype = str(self._llm.vllm_config.model_config.dtype).removeprefix("torch.")
        if not off <= TOLERANCES.get(dtype, TOLERANCES["float32"]).mean:
            raise RuntimeError(f"their log-probs are {off:.3g} nats off")

    def forget(self) -> None:
        """The weights that serve from now on were not proven."""
        self._known, self.experts_reached = [], None

    async def release(self) -> None:
        """Let all requests that are held go on, if any are."""
        if self.holding:
            await self._calls.utility(self._llm.engine_core.call_utility_async("rollstream_release"))
            self.holding = False

    def _seeded_rows(self) -> list[ScoreRequest]:
        model = self._llm.vllm_config.model_config
        shape = _ROWS, min(_LENGTH, model.max_model_len - 1)
        ids = np.random.default_rng(0).integers(0, int(model.get_vocab_size()), shape)
        return [
            ScoreRequest(request_id="seeded", token_ids=row, first=1, top_logprobs=0, adapter=None)
            for row in ids.tolist()
        ]

    async def _scored(self, rows: list[ScoreRequest], version: int) -> list[Scores]:
        """Let the paused engine go on with these rows."""
        await self._calls.utility(self._llm.resume_generation())
        scoring = [asyncio.create_task(self._row(row, version)) for row in rows]
        try:
            return await self._calls.stepping(asyncio.gather(*scoring), self._llm.is_sleeping)
        finally:
            await _end(scoring)

    async def _row(self, request: ScoreRequest, version: int) -> Scores:
        row = replace(request, request_id=f"{self._prefix}{next(self._numbers)}")
        return await self._calls.proof(self._score(row, version))

    async def _asked(self, method: str, *args: Any) -> list[Any]:
        found: list[Any] = await self._calls.utility(self._llm.collective_rpc(method, args=args))
        return found


async def _end(tasks: Collection[asyncio.Task[Scores]]) -> None:
    """Abort the rows that nobody waits for any more, before weights change again."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
