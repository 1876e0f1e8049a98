"""Do what an operator asks: requests are state in Redis, read every 0.4 s, so an outage loses none of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.schemas import Keys
from rollstream.schemas.hashes.ledger import LedgerField
from rollstream.schemas.hashes.worker_report import DRAIN
from rollstream.schemas.lease import LEASE_FIELD
from rollstream.schemas.pause_reason import PAUSED_FIELD, PauseReason

from ..delivery.admission import Admission
from ..delivery.lease_agreement import LeaseAgreement
from ..errors import SettingsError
from ..jobs.deadlines import RedisClock
from ..jobs.runner import JobRunner
from ..measure.redis_errors import FAILED
from ..redis_io.connections import cancelled, never_passes, retrying

PERIOD_S = 0.4

log = structlog.get_logger()


class Control:
    """Pauses and resumes admission, drains the worker, stops what was cancelled or cut, sets the clock."""

    def __init__(
        self,
        *,
        redis: Redis,
        keys: Keys,
        consumer: str,
        admission: Admission,
        runner: JobRunner,
        clock: RedisClock,
        lease: LeaseAgreement,
        drain: Callable[[], None],
    ) -> None:
        self._redis = redis
        self._keys = keys
        self._worker_key = keys.worker(consumer)
        self._admission = admission
        self._runner = runner
        self._clock = clock
        self._lease = lease
        self._drain = drain

    async def begin(self) -> None:
        """The first look, before any job may be read. Raises `SettingsError` if waiting cannot help."""
        try:
            await retrying("first look", self.look)
        except RedisError as error:
            raise SettingsError(f"--policy {self._keys.policy}: {self._keys.control()} is no hash: {error}") from None

    async def run(self) -> None:
        """Look until cancelled. An outage of Redis does not stop this, and is logged once."""
        away = False
        while not cancelled():
            await asyncio.sleep(PERIOD_S)
            try:
                await self.look()
                away = False
            except RedisError as error:
                FAILED.add()
                if not away:
                    log.warning("redis does not answer, what an operator asks is done later", error=str(error))
                away = True

    async def look(self) -> None:
        """Read all requests in one round trip and act on them. Raises `RedisError`."""
        batches = list(self._runner.batches)
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.time()
            pipe.hmget(self._keys.control(), PAUSED_FIELD, LEASE_FIELD)
            pipe.hget(self._worker_key, DRAIN)
            for batch_id in batches:
                pipe.hmget(self._keys.ledger(batch_id), LedgerField.CANCELLED, LedgerField.CUTS)
            replies: list[Any] = await pipe.execute(raise_on_error=False)
        seen_at = time.monotonic()
        (seconds, micros), (paused, lease) = (_value(reply) for reply in replies[:2])
        drain = _value(replies[2], otherwise=None)  # in our own report; anything else written there is no request
        self._clock.set(seconds + micros / 1e6, seen_at)
        self._follow_pause(paused=paused is not None)
        if drain is not None and not self._admission.closed:
            self._drain()
        await self._follow_lease(lease)
        for batch_id, reply in zip(batches, replies[3:], strict=True):
            # On an error the ledger is something else. The job will find that too and become a dead letter.
            cancelled_at, cuts = (None, None) if isinstance(reply, RedisError) else reply
            if cancelled_at is not None:
                self._runner.cancel(batch_id)
            elif cuts is not None:
                await self._runner.follow_cuts(batch_id, cuts)

    async def _follow_lease(self, value: bytes | None) -> None:
        why = await self._lease.check(value)
        if why is not None and not self._admission.closed:
            log.error("draining, this worker's lease is no longer that of the others", why=why)
            self._drain()

    def _follow_pause(self, *, paused: bool) -> None:
        if paused == (PauseReason.OPERATOR in self._admission.paused):
            return
        log.info("queue paused by an operator" if paused else "queue resumed by an operator")
        self._admission.set_paused(PauseReason.OPERATOR, on=paused)


_RAISE = object()


def _value(reply: Any, otherwise: Any = _RAISE) -> Any:
    """The reply. Raises it if it is an error; if it never passes and `otherwise` is given, returns that instead."""
    if isinstance(reply, RedisError):
        if otherwise is not _RAISE and never_passes(reply):
            return otherwise
        raise reply
    return reply
