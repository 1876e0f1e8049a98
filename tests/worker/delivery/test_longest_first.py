"""The longest groups of a batch get places first, and no other batch waits for that."""

from __future__ import annotations

import random
from typing import NamedTuple

import numpy as np
import pytest

from rollstream.schemas import GenerationConfig, Job, Tensor
from rollstream.worker.delivery.admission import Admission, Claim, Load
from rollstream.worker.delivery.turns import Party, next_turn
from rollstream.worker.jobs.longest_first import longest_first

LIMITS = Load(sequences=8, nbytes=800)
ONE, PAIR = Load(groups=1, sequences=1), Load(groups=1, sequences=2)


class Has(NamedTuple):
    """A job that has so many places and waits for another, of a batch that says how long it is, or of none."""

    groups: int
    longest: int = 0
    batch: str = ""
    turn: int = 0


def claims_of(jobs: list[Has]) -> list[Claim]:
    parties: dict[str, Party] = {}
    claims = []
    for job in jobs:
        party = parties.setdefault(job.batch, Party(batch_id=job.batch)) if job.batch else None
        held = job.groups * ONE
        if party is not None:
            party.jobs += 1
            party.held += held
        claims.append(
            Claim(payload=0, turn=job.turn, group=ONE, waiting=1, held=held, party=party, lengths=(9, job.longest))
        )
    return claims


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        ([Has(0, 5, "a"), Has(0, 9, "a")], 1),
        ([Has(0, 5, "a"), Has(3, 9, "a")], 1),
        ([Has(0, 9, "a", 2), Has(0, 9, "a", 1)], 1),
        ([Has(1, 9, "a", 1), Has(0, 9, "a", 2)], 1),
        ([Has(0, 1, "a"), Has(0, 9, "b", 1)], 0),
        ([Has(1, 1, "a"), Has(0, 9, "b")], 1),
        ([Has(2, 9, "a"), Has(1)], 1),
        ([Has(2, 9, "a"), Has(0, 1, "a"), Has(1, turn=1)], 0),
        ([Has(4, 9, "a"), Has(0, 1, "a"), Has(1)], 2),
        ([Has(0, 1, "a"), Has(0, 9, "a"), Has(0, 99, "b", 1)], 1),
        ([Has(2, 0), Has(1, 0)], 1),
    ],
    ids=str,
)
def test_the_longest_of_the_batch_that_has_the_turn_gets_the_place(jobs: list[Has], expected: int) -> None:
    claims = claims_of(jobs)

    assert claims.index(next_turn(claims, LIMITS)) == expected


class Worker:
    """Jobs of groups that take each place that they are given at once, and end when told to."""

    def __init__(self, places: int) -> None:
        self.admission = Admission(limit=places)
        self.jobs: dict[str, Claim] = {}

    def take(self, name: str, lengths: list[int], batch: str = "a", each: Load = ONE) -> Claim:
        claim = self.jobs[name] = self.admission.hold(0)
        self.admission.expect(claim, len(lengths), each)
        told = sorted(lengths, reverse=True) if batch else []
        self.admission.queue(claim, batch, told)
        return claim

    async def end_one(self, claim: Claim) -> None:
        await self.admission.place(claim)
        self.admission.leave(claim, claim.group)


async def test_the_longest_groups_of_a_batch_start_first_whichever_job_has_them() -> None:
    worker = Worker(2)
    worker.take("running", [1, 1], batch="")
    short, long, both = worker.take("short", [1, 2]), worker.take("long", [8, 9]), worker.take("both", [3, 7])
    started = []
    for _ in range(6):
        running = next(claim for claim in worker.jobs.values() if claim.held.groups)
        before = {id(claim): claim.waiting for claim in (short, long, both)}
        await worker.end_one(running)
        (now,) = [claim for claim in (short, long, both) if claim.waiting < before[id(claim)]]
        started.append(now.lengths[-before[id(now)]])

    assert started == [9, 8, 7, 3, 2, 1]


@pytest.mark.parametrize("jobs", [1, 4, 16])
async def test_a_batch_that_says_how_long_it_is_takes_no_places_of_another(jobs: int) -> None:
    """It gets as many as without lengths, give or take the few by which the order of the turns differs."""
    had = {}
    for batch in ("a", ""):
        worker = Worker(2 * (jobs + 1))
        for number in range(jobs):
            worker.take(str(number), [100 - number] * 50, batch)
        other = worker.take("other", [1] * 50, batch="")
        drawn = random.Random(7)
        for _ in range(20 * jobs):
            running = [claim for claim in worker.jobs.values() if claim.held.groups]
            await worker.end_one(drawn.choices(running, [claim.held.groups for claim in running])[0])
        had[batch] = other.given
    assert had["a"] == pytest.approx(had[""], rel=0.1)


async def test_a_batch_whose_jobs_have_all_their_places_still_counts_what_they_have() -> None:
    worker = Worker(8)
    worker.take("long", [9] * 6)
    worker.take("short", [1] * 50)
    other = worker.take("other", [1] * 50, batch="")
    for _ in range(3):
        await worker.end_one(worker.jobs["short"] if worker.jobs["short"].held.groups else worker.jobs["long"])

    assert other.held.groups == 3


async def test_what_a_job_that_went_leaves_to_its_batch_adds_up() -> None:
    worker = Worker(4)
    first, second = worker.take("first", [5, 5, 5]), worker.take("second", [4, 4, 4])
    party = first.party
    assert party is not None
    assert (party.jobs, party.held.groups) == (2, 4)
    await worker.end_one(first)
    worker.admission.let_go(first)
    assert (party.jobs, party.held.groups) == (1, second.held.groups)
    worker.admission.expect(second, 3, PAIR)
    worker.admission.vacate(second)
    assert (party.jobs, party.held) == (1, Load())
    worker.admission.let_go(second)

    assert (party.jobs, worker.admission.load) == (0, Load())
    assert second.party is None


def job(expected: list[int] | None) -> Job:
    ids, lengths = Tensor.of(np.arange(1, 5, dtype=np.int32)), Tensor.of(np.ones(4, np.int32))
    told = None if expected is None else Tensor.of(np.array(expected, np.int32))
    return Job(
        batch_id="b", job=2, first_group=4, num_groups=8, prompt_ids=ids, prompt_lengths=lengths, submitted_at=1.0,
        config=GenerationConfig(max_new_tokens=8), expected_tokens=told,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("expected", "groups", "ordered", "lengths"),
    [
        (None, [4, 5, 6, 7], [4, 5, 6, 7], ()),
        ([1, 2, 3, 4], [4, 5, 6, 7], [7, 6, 5, 4], [4, 3, 2, 1]),
        ([2, 9, 2, 9], [4, 5, 6, 7], [5, 7, 4, 6], [9, 9, 2, 2]),
        ([1, 2, 3, 4], [4, 6], [6, 4], [3, 1]),
        ([0, 0, 0, 0], [5, 7], [5, 7], [0, 0]),
        ([1, 2, 3, 4], [], [], []),
    ],
)
def test_groups_of_a_job_are_ordered_by_what_it_says_of_them(
    expected: list[int] | None, groups: list[int], ordered: list[int], lengths: list[int]
) -> None:
    assert longest_first(job(expected), groups) == (ordered, lengths)
