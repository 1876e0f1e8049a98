"""How many workers KEDA and the Horizontal Pod Autoscaler want: their rules, with the numbers of `deploy/k8s`. Pure.

KEDA decides between none and some: some while the backlog is above `activation`, none once it was not for `cooldown_s`.
Between one and `most` the HPA decides: by the lowest and highest number that it wanted of late, and step by step.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import ceil, floor, inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Direction:
    """How fast the HPA goes up, or down: by `percent` of the workers or by `pods`, the larger one, in `period_s`."""

    stabilization_s: float
    percent: float
    pods: int
    period_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The numbers of the ScaledObject; times in seconds."""

    target: float = 300.0
    """Seconds of work that each worker should have before it, what runs included."""
    activation: float = 0.0
    """Above so many seconds of work for one worker the first is started."""
    most: int = 8
    cooldown_s: float = 600.0
    """All workers are stopped after so long without work."""
    up: Direction = Direction(stabilization_s=30, percent=100, pods=4, period_s=60)
    down: Direction = Direction(stabilization_s=300, percent=25, pods=1, period_s=60)
    tolerance: float = 0.1
    """The HPA's own: it does nothing while the workers have the work that they should have, more or less."""


class Autoscaler:
    """Decides step by step, and remembers what it wanted and did, and when work was last seen.

    Its owner calls `step`, in the order of time; nothing else changes it.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._wanted: deque[tuple[float, int]] = deque()
        self._done: deque[tuple[float, int]] = deque()
        """How many workers were added, or fewer than 0, and when."""
        self._active_at = -inf

    def step(self, now: float, worker_seconds: float | None, current: int) -> int:
        """How many workers there should be, of which there are `current`, at `now`.

        `worker_seconds`: what is queued, in seconds of one worker's work; None if that is not known, which changes
        nothing.
        """
        if worker_seconds is None:
            return current
        if worker_seconds > self._rules.activation:
            self._active_at = now
        if now - self._active_at >= self._rules.cooldown_s:
            self._wanted.clear()
            return self._noted(now, current, 0)
        if current == 0:
            return self._noted(now, current, int(worker_seconds > self._rules.activation))
        wanted = min(max(1, self._unbounded(worker_seconds, current)), self._rules.most)
        return self._noted(now, current, self._limited(now, current, self._stabilized(now, current, wanted)))

    def _unbounded(self, worker_seconds: float, current: int) -> int:
        """The formula for an external metric of type AverageValue."""
        ratio = worker_seconds / (self._rules.target * current)
        return current if abs(ratio - 1) <= self._rules.tolerance else ceil(worker_seconds / self._rules.target)

    def _stabilized(self, now: float, current: int, wanted: int) -> int:
        """More only if more was wanted all the time, and fewer only if fewer were."""
        self._wanted.append((now, wanted))
        lowest = min(self._since(self._wanted, now - self._rules.up.stabilization_s))
        highest = max(self._since(self._wanted, now - self._rules.down.stabilization_s))
        return min(max(current, lowest), highest)

    def _limited(self, now: float, current: int, wanted: int) -> int:
        up, down = self._rules.up, self._rules.down
        added = sum(max(0, change) for change in self._since(self._done, now - up.period_s))
        taken = sum(max(0, -change) for change in self._since(self._done, now - down.period_s))
        most = max(ceil((current - added) * (1 + up.percent / 100)), current - added + up.pods)
        least = min(floor((current + taken) * (1 - down.percent / 100)), current + taken - down.pods)
        return max(min(wanted, max(most, current)), min(max(least, 1), current))

    def _since(self, what: deque[tuple[float, int]], start: float) -> list[int]:
        return [count for when, count in what if when > start]

    def _noted(self, now: float, current: int, wanted: int) -> int:
        if wanted != current:
            self._done.append((now, wanted - current))
        oldest = now - max(self._rules.up.stabilization_s, self._rules.down.stabilization_s, self._rules.up.period_s)
        for remembered in (self._wanted, self._done):
            while remembered and remembered[0][0] < oldest:
                remembered.popleft()
        return wanted
