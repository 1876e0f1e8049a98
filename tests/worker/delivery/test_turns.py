"""Who gets the next place of a worker, and what big jobs count for when it decides whether to read another."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import pytest

from rollstream.worker.delivery.admission import Admission, Claim, Load
from rollstream.worker.delivery.turns import is_big, next_turn, spared

LIMITS = Load(sequences=8, nbytes=800)
ONE, PAIR, WIDE, HEAVY = (
    Load(groups=1, sequences=1),
    Load(groups=1, sequences=2),
    Load(groups=1, sequences=100),
    Load(groups=1, sequences=1, nbytes=200),
)


class Has(NamedTuple):
    """A job that has so many places and waits for another, since so long."""

    groups: int
    each: Load = ONE
    turn: int = 0


def claim_of(has: Has) -> Claim:
    return Claim(payload=0, turn=has.turn, group=has.each, waiting=1, held=has.groups * has.each)


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        ([Has(0)], 0),
        ([Has(3), Has(2)], 1),
        ([Has(0, turn=2), Has(0, turn=1)], 1),
        ([Has(2, ONE), Has(1, PAIR)], 0),
        ([Has(3, ONE), Has(1, HEAVY)], 0),
        ([Has(4, ONE), Has(0, HEAVY)], 1),
        ([Has(0, WIDE, 1), Has(0, ONE, 2)], 1),
        ([Has(0, WIDE, 1), Has(2, ONE, 2)], 1),
        ([Has(0, WIDE, 1), Has(3, ONE, 2)], 0),
        ([Has(0, WIDE, 2), Has(3, ONE, 1)], 1),
        ([Has(1, ONE, 1), Has(0, WIDE, 2), Has(2, ONE, 3)], 0),
    ],
    ids=str,
)
def test_the_next_place_goes_to_who_has_least_up_to_an_equal_share_then_to_who_waited_longest(
    jobs: list[Has], expected: int
) -> None:
    claims = [claim_of(job) for job in jobs]

    assert claims.index(next_turn(claims, LIMITS)) == expected


@pytest.mark.parametrize(
    ("given", "waiting", "big", "expected"),
    [
        (0.9, 9, 0, False),
        (1.0, 9, 0, True),
        (1.0, 8, 0, False),
        (1.9, 9, 1, False),
        (2.0, 9, 1, True),
        (4.0, 9, 2, True),
    ],
)
def test_each_further_job_is_big_after_twice_as_much(given: float, waiting: int, big: int, expected: bool) -> None:
    assert is_big(Claim(payload=0, given=given, waiting=waiting, group=ONE), LIMITS, big) is expected


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        ([], Load()),
        ([Claim(payload=0, held=4 * ONE, waiting=96, group=ONE)], Load(groups=0, sequences=96, nbytes=0)),
        ([Claim(payload=0, held=3 * ONE, waiting=1, group=ONE)], Load()),
        ([Claim(payload=0, held=3 * HEAVY, waiting=1, group=HEAVY)], Load(groups=0, sequences=0, nbytes=200)),
        ([Claim(payload=9, held=WIDE, waiting=1, group=WIDE)] * 3, Load(groups=0, sequences=3 * 198, nbytes=0)),
    ],
    ids=str,
)
def test_big_jobs_count_for_an_equal_share_each_and_leave_one(jobs: list[Claim], expected: Load) -> None:
    assert spared(jobs, LIMITS) == expected


class Worker:
    """Jobs whose groups take each place that they are given at once, and leave when told to."""

    def __init__(self, limit: int) -> None:
        self.admission = Admission(limit=limit)

    def take(self, groups: int, each: Load = ONE) -> Claim:
        claim = self.admission.hold(0)
        self.admission.expect(claim, groups, each)
        self.admission.queue(claim)
        return claim

    async def finish(self, claim: Claim, groups: int = 1) -> None:
        for _ in range(groups):
            await self.admission.place(claim)
            self.admission.leave(claim, claim.group)


async def test_a_neighbour_gets_every_place_that_is_left_until_it_has_as_many() -> None:
    worker = Worker(4)
    big, small = worker.take(100), worker.take(100)
    assert (big.held.groups, small.held.groups) == (4, 0)

    await worker.finish(big, 2)
    assert (big.held.groups, small.held.groups) == (2, 2)
    for job in (big, small, small, big) * 3:
        await worker.finish(job)
    assert (big.held.groups, small.held.groups) == (2, 2)


async def test_a_job_of_groups_wider_than_the_worker_takes_turns_with_a_narrow_one() -> None:
    worker = Worker(4)
    wide = worker.take(3, Load(groups=1, sequences=100))
    narrow = worker.take(100)
    done = 0
    for _ in range(3):
        assert (wide.held.groups, narrow.held.groups) == (1, narrow.held.groups)
        await worker.finish(wide)
        assert narrow.held.groups >= 1
        done += narrow.held.groups
        await worker.finish(narrow, narrow.held.groups)

    assert wide.waiting == 0
    assert done >= 3


async def test_narrow_neighbours_however_many_do_not_starve_a_wide_group() -> None:
    worker = Worker(4)
    others = [worker.take(100) for _ in range(6)]
    wide = worker.take(1, Load(groups=1, sequences=100))
    for finished in range(40):
        if wide.held.groups:
            break
        await worker.finish(next(other for other in others[finished % 6 :] + others if other.held.groups))

    assert wide.held.groups == 1


async def test_one_group_larger_than_the_worker_runs_alone() -> None:
    worker = Worker(4)
    first, second = worker.take(2, Load(groups=1, sequences=9)), worker.take(2, Load(groups=1, sequences=9))

    assert (first.held.groups, second.held.groups) == (1, 0)
    await worker.finish(first)
    assert (first.held.groups, second.held.groups) == (0, 1)
    await worker.finish(second)
    assert (first.held.groups, second.held.groups) == (1, 0)


async def test_payloads_beyond_the_limit_leave_places_for_a_group_at_a_time() -> None:
    admission = Admission(limit=4, limit_bytes=100)
    claim = admission.hold(1000)
    admission.expect(claim, 2, Load(groups=1, sequences=1, nbytes=50))
    admission.queue(claim)

    await asyncio.wait_for(admission.place(claim), 1)
    assert admission.is_full
    admission.leave(claim, Load(groups=1, sequences=1, nbytes=50))
    await asyncio.wait_for(admission.place(claim), 1)


async def test_a_place_that_came_too_late_to_be_used_goes_to_a_neighbour() -> None:
    worker = Worker(1)
    running, stopped, other = worker.take(1), worker.take(1), worker.take(1)
    waiting = asyncio.create_task(worker.admission.place(stopped))
    await asyncio.sleep(0)
    await worker.finish(running)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert stopped.unused == 1

    worker.admission.let_go(stopped)

    await asyncio.wait_for(worker.admission.place(other), 1)
    assert worker.admission.load == Load(groups=1, sequences=1)


async def test_what_a_stopped_job_was_given_and_did_not_use_is_taken_back() -> None:
    worker = Worker(4)
    stopped, other = worker.take(9), worker.take(9)
    await worker.admission.place(stopped)

    worker.admission.expect(stopped, 8, Load(groups=1, sequences=1))

    assert (stopped.held.groups, other.held.groups) == (1, 3)


@pytest.mark.parametrize(("groups", "each"), [(100, ONE), (2, Load(groups=1, sequences=100))])
async def test_beside_a_big_job_others_are_read_and_few_that_are_big_too(groups: int, each: Load) -> None:
    worker = Worker(4)
    worker.take(groups, each)
    small = [worker.take(1), worker.take(1)]
    assert not worker.admission.has_room

    worker.admission.let_go(small.pop())
    assert worker.admission.has_room
    worker.take(100)
    assert not worker.admission.has_room


async def test_a_second_big_job_makes_room_after_twice_as_much() -> None:
    worker = Worker(4)
    first, second = worker.take(100), worker.take(100)
    for given in range(1, 9):
        assert not worker.admission.has_room, given
        await worker.finish(first if first.held.groups > second.held.groups else second)

    assert worker.admission.has_room


async def test_jobs_that_are_not_big_are_read_until_what_they_want_reaches_the_limit_and_no_further() -> None:
    """Otherwise a worker would keep jobs that it cannot run from other workers."""
    worker = Worker(4)
    jobs = [worker.take(3), worker.take(2)]

    assert not worker.admission.has_room
    await worker.finish(jobs[0])
    assert not worker.admission.has_room
    await worker.finish(jobs[1])
    assert worker.admission.has_room


async def test_groups_of_jobs_that_were_read_enter_beyond_what_is_enough_to_read_no_more() -> None:
    """A group keeps its places until its last sequence has ended: with no more of them the engine would run short."""
    admission = Admission(limit=4, places=8)
    claim = admission.hold(0)
    admission.expect(claim, 9, ONE)
    admission.queue(claim)

    assert (claim.held.groups, admission.is_full, admission.has_room) == (8, True, False)
    admission.let_go(claim)
    assert admission.has_room
