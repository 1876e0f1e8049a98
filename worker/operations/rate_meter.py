"""How fast a worker is, from what it has answered at each beat. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

MEASURED_S = 60.0
"""Seconds of work after which a rate is given: over shorter times it depends on when groups happen to end."""


class Filled(IntEnum):
    """How much of a worker is in use."""

    IDLE = 0
    PARTLY = 1
    FULL = 2
    """Its jobs are as many as its engine runs at once, and more: another would have to wait."""

    @classmethod
    def of(cls, *, generates: bool, is_full: bool) -> Filled:
        """`generates`: whether it has anything to generate at all."""
        return cls.IDLE if not generates else cls.FULL if is_full else cls.PARTLY


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """How fast a worker was."""

    tokens_per_s: float
    is_full: bool
    """Whether it was full all the time. If not, it could have been faster: this is the least that it can do."""


@dataclass(slots=True, kw_only=True)
class _Span:
    """The time and the tokens since the last rate was given. `RateMeter` alone changes it."""

    seconds: float = 0.0
    tokens: int = 0

    def add(self, seconds: float, tokens: int) -> float | None:
        """The rate, once it is over `MEASURED_S` and something was answered; it starts again then.

        Time without an answer is not left out: groups that take minutes would seem to have taken one.
        """
        self.seconds += seconds
        self.tokens += tokens
        if self.seconds < MEASURED_S or self.tokens <= 0:
            return None
        rate, self.seconds, self.tokens = self.tokens / self.seconds, 0.0, 0
        return rate


class RateMeter:
    """Tokens per second of the times between beats that began with something to run.

    What a worker does while it is full is measured apart. A worker with little to do is slow, and who took that for its
    speed would start more workers, which have less to do each and are slower still.
    """

    def __init__(self) -> None:
        self._before: tuple[float, int, Filled] | None = None
        self._busy, self._full = _Span(), _Span()

    def look(self, at: float, tokens: int, filled: Filled) -> Measured | None:
        """The rate since the last one, once that is `MEASURED_S` old. `tokens`: so far."""
        before, self._before = self._before, (at, tokens, filled)
        if before is None or not before[2]:
            return None
        seconds, more = at - before[0], tokens - before[1]
        was_full = before[2] is filled is Filled.FULL
        full = self._full.add(seconds, more) if was_full else None
        busy = self._busy.add(seconds, more)
        rate = full or busy
        return None if rate is None else Measured(tokens_per_s=rate, is_full=full is not None)
