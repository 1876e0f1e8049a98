"""Fewer sequences are let in while the engine's memory is full, and as many as ever while it has room."""

from __future__ import annotations

import random

import pytest

from rollstream.worker.delivery.places_by_memory import Look, places_after
from rollstream.worker.requests import KvUse
from tests.support.engine.simulated_engine import SimulatedEngine, outcome

MOST = 160


def look(
    used: float, running: int = 64, waiting: int = 0, preemptions: int = 0, held: int = MOST, ended: int = 0
) -> Look:
    use = KvUse(used=used, running=running, waiting=waiting, preemptions=preemptions)
    return Look(use=use, held=held, ended=ended)


@pytest.mark.parametrize(
    ("places", "now", "expected"),
    [
        pytest.param(MOST, look(0.5, waiting=96, ended=80), MOST, id="as ever"),
        pytest.param(MOST, look(0.99, waiting=96), MOST, id="full, and all that run fit"),
        pytest.param(MOST, look(0.99, waiting=96, preemptions=1), 89, id="what ran, and two fifths more"),
        pytest.param(50, look(0.99, waiting=96, preemptions=1), 50, id="never more after a preemption"),
        pytest.param(50, look(0.99, running=3, waiting=MOST, preemptions=9), 1, id="one group may always run"),
        pytest.param(50, look(0.95, held=50, ended=20), 50, id="no room"),
        pytest.param(50, look(0.475, held=50, ended=20), 90, id="room for twice as many as have ended"),
        pytest.param(50, look(0.475, held=50), 50, id="nothing has shown that it fits"),
        pytest.param(50, look(0.475, held=49, ended=20), 50, id="places that nobody wants"),
        pytest.param(150, look(0.1, held=150, ended=20), MOST, id="never more than by count"),
        pytest.param(50, look(0.0, running=0, held=0), MOST, id="nothing runs"),
    ],
)
def test_the_places_after_a_look(places: int, now: Look, expected: int) -> None:
    assert places_after(places, MOST, now, look(0.5)) == expected


def by_count(places: int, _most: int, _now: Look, _before: Look) -> int:
    return places


def groups(count: int, shortest: int, longest: int, *, n: int = 4, tail: int | None = None) -> list[list[int]]:
    """`tail`: the length of one in ten."""
    chance = random.Random(7)
    lengths = (
        (tail if tail and chance.random() < 0.1 else chance.randint(shortest, longest)) for _ in range(count * n)
    )
    return [[next(lengths) for _ in range(n)] for _ in range(count)]


@pytest.mark.parametrize("blocks", [800, 2000])
async def test_short_completions_are_served_exactly_as_without_it(blocks: int) -> None:
    work = groups(120, 20, 80)

    by_memory = await outcome(SimulatedEngine(seats=64, blocks=blocks), work, places_after)

    assert by_memory == await outcome(SimulatedEngine(seats=64, blocks=blocks), work, by_count)
    assert (by_memory.preemptions, by_memory.fewest_places) == (0, MOST)


@pytest.mark.parametrize(
    "work",
    [groups(60, 200, 800), groups(60, 500, 500), groups(150, 60, 120, tail=800)],
    ids=["of all lengths", "equally long", "a long tail"],
)
async def test_long_completions_lose_their_memory_less_often_and_nothing_gets_slower(work: list[list[int]]) -> None:
    blocks = 500  # for ten of the longest

    by_memory = await outcome(SimulatedEngine(seats=64, blocks=blocks), work, places_after)
    as_ever = await outcome(SimulatedEngine(seats=64, blocks=blocks), work, by_count)

    assert by_memory.preemptions < 0.8 * as_ever.preemptions
    assert by_memory.tokens_per_s > as_ever.tokens_per_s
    assert by_memory.fewest_places < 64


async def test_after_long_completions_short_ones_soon_have_all_places_again() -> None:
    work = [*groups(40, 500, 800), *groups(600, 20, 60)]
    seen: list[int] = []

    def noting(places: int, most: int, now: Look, before: Look) -> int:
        seen.append(places_after(places, most, now, before))
        return seen[-1]

    await outcome(SimulatedEngine(seats=64, blocks=500), work, noting)

    assert min(seen) < 40
    assert seen[-3] == MOST
