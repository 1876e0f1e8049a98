"""Windows of time, in peace or under faults, in which the tokens that reach a trainer are counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from redis.asyncio import Redis
from redis.exceptions import RedisError

from benchmarks.support.bounds import Limit
from benchmarks.support.lanes import Trainer
from benchmarks.support.strikes import Strike, StruckFleet
from rollstream.producer.policies.live_workers import live_reports
from rollstream.schemas import Keys
from rollstream.schemas.hashes.worker_report import WorkerState

START_S = 240.0
"""The longest that all workers may take until they serve."""
RENEWAL_S = 120.0
"""The longest that all batches under way may take until they are answered."""
_LOOK_S = 0.05
_TELL_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Window:
    """What one window saw."""

    arm: str
    seconds: float
    tokens: int
    resumed: int

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second that reached the trainer."""
        return self.tokens / self.seconds


@dataclass(kw_only=True)
class Windows:
    """Opens one window after the other over the same fleet and the same trainer. Every wait of it ends."""

    fleet: StruckFleet
    trainer: Trainer
    redis: Redis
    keys: Keys
    limit: Limit
    found: list[Window] = field(default_factory=list)
    renewal_s: float = 0.0
    """How long the slowest renewal took."""
    _serving: int = 0

    async def tend(self) -> None:
        """Undo faults and start workers, until cancelled. Raises `WorkerFailedError`."""
        while True:
            self.fleet.tend()
            await asyncio.sleep(_LOOK_S)

    async def serving(self) -> None:
        """Wait until nothing is to be undone and every worker serves. Raises `TooLongError`."""
        began = time.monotonic()
        async with self.limit.within(START_S, "all workers serve", self._missing):
            while not (self.fleet.quiet and await self._all_serve()):  # noqa: ASYNC110 - other processes' states
                await asyncio.sleep(_LOOK_S)
        self.limit.say(f"all {len(self.fleet.pids)} workers serve, after {time.monotonic() - began:.0f} s")

    async def renewed(self, keep: float) -> None:
        """Let all batches be of this arm: those under way now are answered first. Raises `TooLongError`."""
        self.trainer.keep, began = keep, time.monotonic()
        async with self.limit.within(RENEWAL_S, "the batches of before are answered", self._missing):
            await self.trainer.renewed()
        self.renewal_s = max(self.renewal_s, time.monotonic() - began)
        self.limit.say(f"batches of before are answered, after {time.monotonic() - began:.0f} s")

    async def open(self, arm: str, strikes: Sequence[Strike], seconds: float) -> Window | None:
        """Count for so many seconds; None if the limit does not leave the time for it and for the end."""
        if self.limit.left_s < seconds + self.renewal_s:
            self.limit.say(f"{arm}: left out, {self.limit.left_s:.0f} s are left")
            return None
        trainer, waiting, told = self.trainer, list(strikes), _TELL_S
        began, tokens, resumed = time.monotonic(), trainer.tokens, trainer.resumed
        while (passed := time.monotonic() - began) < seconds:
            while waiting and passed >= waiting[0].at * seconds:
                self.limit.say(f"  {waiting[0]}")
                self.fleet.strike(waiting.pop(0))
            if passed >= told:
                told += _TELL_S
                self.limit.say(f"  {arm}: {(trainer.tokens - tokens) / passed:,.0f} tok/s so far")
            await asyncio.sleep(_LOOK_S)
        one = Window(arm=arm, seconds=passed, tokens=trainer.tokens - tokens, resumed=trainer.resumed - resumed)
        self.limit.say(f"{arm}: {one.tokens_per_s:,.0f} tok/s")
        self.found.append(one)
        return one

    async def ended(self, training: asyncio.Task[None]) -> None:
        """Submit no more, and wait until the trainer has read all answers. Raises `TooLongError`."""
        self.trainer.ending = True
        async with self.limit.within(RENEWAL_S, "the last batches are answered", self._missing):
            await training

    async def _all_serve(self) -> bool:
        try:
            reports = await live_reports(self.redis, self.keys)
        except RedisError:  # it was killed and is started again
            return False
        names = [name for name, one in reports.items() if one.state == WorkerState.SERVING]
        pids = self.fleet.pids
        self._serving = sum(any(pid in name for name in names) for pid in pids)
        return self._serving == len(pids)

    def _missing(self) -> str:
        return f"{self.trainer.told()}; {self._serving} of {len(self.fleet.pids)} serve: {self.fleet.told()}"
