"""A made-up day: when which batch comes, and when a spot instance is taken away, from a seed alone. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise

HOURS = 24
PLACES = 4
"""Sequences that a worker runs at once."""
TOKENS_PER_S = 40.0
"""One sequence's, by the trial's clock of real seconds."""
SEQUENCES = 8
"""Completions of a batch."""
_LENGTHS = (5, 10, 15)
"""Tokens of a group, the same for all of a batch."""
_CURVE = (
    (0, 0), (6, 0), (8, 2), (9, 3), (12, 4), (12.5, 2), (13, 4), (15, 4), (15, 12), (15.5, 12), (15.5, 4), (17, 3.5),
    (20, 1.5), (22, 0), (24, 0),
)  # fmt: skip
"""Hour of the day, and how many workers the load keeps busy: nothing at night, and a burst in the afternoon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One submit."""

    hour: float
    batch_id: str
    tokens: int
    """For each group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """What happens, by the hour."""

    arrivals: list[Arrival]
    samples: int
    """Completions of a group, each of which is a job of its own. `PLACES` of them fill a worker."""
    interruptions: list[float]
    """When one of the workers there are is killed."""

    @property
    def groups(self) -> int:
        """Groups of a batch."""
        return SEQUENCES // self.samples


def load(hour: float) -> float:
    """How many workers are kept busy at that hour."""
    for (start, before), (end, after) in pairwise(_CURVE):
        if start <= hour < end:
            return before + (after - before) * (hour - start) / (end - start)
    return 0.0


def make_day(seed: int, seconds: float, interruptions: int, samples: int = PLACES) -> Day:
    """The same for the same arguments. `seconds`: how many real ones the day takes, which decides how many batches."""
    rng = random.Random(f"{seed}/{seconds}")
    arrivals: list[Arrival] = []
    hour = 0.0
    busiest = max(count for _, count in _CURVE)
    while (hour := hour + rng.expovariate(busiest * _batches_an_hour(seconds))) < HOURS:
        if rng.random() * busiest < load(hour):  # thinned out to the load of that hour
            arrivals.append(Arrival(hour=hour, batch_id=f"day-{len(arrivals)}", tokens=rng.choice(_LENGTHS)))
    killed = sorted(rng.uniform(8, 20) for _ in range(interruptions))
    return Day(arrivals=arrivals, samples=samples, interruptions=killed)


def _batches_an_hour(seconds: float) -> float:
    """Batches in an hour that keep one worker busy."""
    tokens = SEQUENCES * sum(_LENGTHS) / len(_LENGTHS)
    return PLACES * TOKENS_PER_S / tokens * seconds / HOURS
