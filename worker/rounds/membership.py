"""One worker in one round: it beats, says how far it is, and sees when the round is over."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.schemas import Keys, SchemaError, decode
from rollstream.schemas.hashes.rounds import BEAT_S, Did, Phase, RoundState
from rollstream.schemas.wire.rounds import Round, RoundPlan
from rollstream.transport.rounds.scripts import beat_round, join_round

from ..errors import RoundMissedError
from ..redis_io.connections import cancelled

_MORE_S = 5.0
"""How much longer than a round is open the plan may take, where Redis does not answer."""

log = structlog.get_logger()


class Membership:
    """Entered by joining. It changes in the worker's event loop: the beat's task reads the round, its user says `did`.

    While Redis is away nothing is known: the round goes on, and has its own time limit.
    """

    def __init__(self, *, redis: Redis, keys: Keys, consumer: str, call: Round, ranks: int) -> None:
        self._redis, self._keys, self._consumer, self._call, self._ranks = redis, keys, consumer, call, ranks
        self._did = str(Did.JOINED)
        self._state = RoundState()
        self._beating: asyncio.Task[None] | None = None
        self.over = asyncio.Event()
        """Set when nothing more will come: the round broke, or its trainer died."""
        self.why = ""

    async def __aenter__(self) -> Self:
        """Raises `RoundMissedError` if the round is not open."""
        try:
            joined = await join_round(self._redis, self._keys, self._call.epoch, self._consumer, self._ranks)
        except RedisError as error:
            raise RoundMissedError(f"Redis did not answer: {error}") from error
        if not joined:
            raise RoundMissedError("it began before this worker was ready")
        self._beating = asyncio.create_task(self._beat())
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._beating is not None:
            self._beating.cancel()
            with suppress(asyncio.CancelledError):
                await self._beating
        self._did = str(Did.RECEIVED if error is None else Did.FAILED)
        with suppress(RedisError):
            await self._look()

    async def planned(self) -> RoundPlan:
        """The plan, once the trainer has made it. Raises `RoundMissedError`."""
        try:
            async with asyncio.timeout(self._call.join_s + _MORE_S):
                while self._state.phase != Phase.SENDING:
                    self.check()
                    await asyncio.sleep(BEAT_S / 2)
        except TimeoutError:
            raise RoundMissedError("its members were never named") from None
        try:
            plan = decode(self._state.plan, RoundPlan)
        except SchemaError as error:
            raise RoundMissedError(f"its plan cannot be read: {error}") from error
        if plan.epoch != self._call.epoch:
            raise RoundMissedError("its plan is that of another round")
        return plan

    def check(self) -> None:
        """Raises `RoundMissedError` if the round is over."""
        if self.over.is_set():
            raise RoundMissedError(self.why)

    def linked(self) -> None:
        """Say so with the next beat."""
        self._did = str(Did.LINKED)

    async def _beat(self) -> None:
        while not cancelled():
            try:
                await self._look()
            except RedisError as error:
                log.debug("no beat in a round", error=str(error))
            await asyncio.sleep(BEAT_S)

    async def _look(self) -> None:
        self._state = await beat_round(self._redis, self._keys, self._call.epoch, self._consumer, self._did)
        if why := _ended(self._state, self._call.epoch):
            self.why = self.why or why
            self.over.set()


def _ended(state: RoundState, epoch: str) -> str:
    if state.epoch != epoch:
        return "another round took its place"
    if state.phase == Phase.BROKEN:
        return f"it broke: {state.why}" if state.why else "it broke"
    return "its trainer died" if state.left_alone else ""
