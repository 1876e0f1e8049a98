"""How long batches would wait for a fleet of one size, by arithmetic: a queue before so many workers. Pure."""

from __future__ import annotations

import heapq

from tests.autoscaling.day import HOURS, PLACES, SEQUENCES, TOKENS_PER_S, Day

_MOST = 64


def waits(day: Day, seconds: float, workers: int) -> list[float]:
    """Real seconds that each batch waits: the next place that is free takes the next completion."""
    free = [0.0] * (workers * PLACES)
    found = []
    for arrival in day.arrivals:
        submitted, done = arrival.hour / HOURS * seconds, 0.0
        for _ in range(SEQUENCES):
            ended = max(submitted, heapq.heappop(free)) + arrival.tokens / TOKENS_PER_S
            heapq.heappush(free, ended)
            done = max(done, ended)
        found.append(done - submitted)
    return found


def as_good(day: Day, seconds: float, p95: float) -> int:
    """The smallest fleet in which no more than a twentieth of the batches wait longer than `p95` real seconds."""
    late = len(day.arrivals) / 20
    return next(count for count in range(1, _MOST) if sum(wait > p95 for wait in waits(day, seconds, count)) <= late)
