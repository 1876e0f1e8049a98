"""Asks the engine how full its KV cache is; with `--admission memory` as many sequences are let in as fit."""

from __future__ import annotations

import asyncio
from typing import Literal

import structlog

from ..delivery.admission import Admission
from ..delivery.places_by_memory import Look, places_after
from ..engine import Engine
from ..measure.measures import Measures
from ..redis_io.connections import cancelled
from ..requests import KvUse

PERIOD_S = 1.0

log = structlog.get_logger()


class MemoryWatch:
    """Looks again and again. An engine that tells nothing, such as the stub, is never held to fewer places."""

    def __init__(
        self, *, engine: Engine, admission: Admission, measures: Measures, by: Literal["count", "memory"]
    ) -> None:
        """`by`: as `--admission`; `memory` lets fewer in while the cache is full, beside telling how full it is."""
        self._engine = engine
        self._bounds = by == "memory"
        self._admission = admission
        self._measures = measures
        self._before: Look | None = None

    async def run(self) -> None:
        """Look every second while there is something to run, and once more after that. Raises `EngineDiedError`."""
        busy = False
        while not cancelled():
            await asyncio.sleep(PERIOD_S)
            was_busy, busy = busy, self._admission.load.sequences > 0
            if busy or was_busy:
                await self.look()

    async def look(self) -> None:
        """Ask the engine, and bound the places if that is asked for."""
        use = await self._engine.memory_use()
        if use is None:
            return
        self._measures.memory = use
        if self._bounds:
            self._hold(use)

    def _hold(self, use: KvUse) -> None:
        admission, before = self._admission, self._before
        self._before = now = Look(use=use, held=admission.load.sequences, ended=admission.ended)
        most, places = admission.places.sequences, admission.bound
        admission.hold_to(places_after(places, most, now, before or now))
        if (places < most) == (admission.bound < most):
            return
        if admission.bound < most:
            why = "the KV cache is full, and completions would be computed again"
            log.info("fewer sequences admitted", places=admission.bound, of=most, why=why)
        else:
            log.info("as many sequences admitted as ever: the KV cache has room", places=most)
