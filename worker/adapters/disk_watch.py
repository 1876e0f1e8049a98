"""Resume reading jobs once adapters can be kept on this worker's disk again; meanwhile other workers take the jobs.

The job that met the full disk was given back. Jobs that have their adapter go on.
"""

from __future__ import annotations

import asyncio

import structlog

from rollstream.schemas.pause_reason import PauseReason

from ..delivery.admission import Admission
from ..redis_io.connections import cancelled
from .supply import AdapterSupply

PERIOD_S = 2

log = structlog.get_logger()


async def watch_disk(adapters: AdapterSupply, admission: Admission) -> None:
    """Resume admission whenever there is room again. Runs until cancelled. Raises `EngineDiedError`."""
    while not cancelled():
        await asyncio.sleep(PERIOD_S)
        if PauseReason.ADAPTER_CACHE in admission.paused and await adapters.can_keep_more():
            admission.set_paused(PauseReason.ADAPTER_CACHE, on=False)
            log.info("intake resumed: the adapter cache can be written again")
