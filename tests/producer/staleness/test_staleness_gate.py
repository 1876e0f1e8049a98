"""No sample is consumed more than k versions late, cancelling loses nothing, no request is overtaken or starved."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from rollstream import (
    GateArgumentError,
    GenerationConfig,
    NotOutstandingError,
    RolloutBatch,
    SamplesDueError,
    StalenessGate,
    VersionNotNewerError,
)
from rollstream.producer.rollouts.assemble import assemble
from tests.schemas.wire.messages import int32
from tests.support.answers import batch_of, error_of, result_of, rollouts
from tests.support.worker_process import settled


@pytest.mark.parametrize(
    ("batch", "k", "start", "version", "allowed"),
    [(8, 0, 0, 0, 8), (8, 2, 0, 0, 24), (8, 0, 0, 3, 32), (5, 4, 0, 2, 35), (8, 1, 7, 7, 16), (8, 1, 7, 9, 32)],
)
def test_samples_ever_submitted_are_bounded_by_version_and_staleness(
    batch: int, k: int, start: int, version: int, allowed: int
) -> None:
    gate = StalenessGate(batch_samples=batch, max_staleness=k, version=start)
    submitted = 0
    for at in range(start, version + 1):
        if at > start:
            gate.advance(at)
        while (admitted := gate.try_admit(1)) is not None:
            submitted += 1
            gate.consumed(1, admitted)
    assert (submitted, gate.limit) == (allowed, allowed)


def test_max_outstanding_bounds_what_is_not_yet_consumed() -> None:
    gate = StalenessGate(batch_samples=8, max_staleness=1, max_outstanding=10)
    assert [gate.try_admit(5), gate.try_admit(5), gate.try_admit(1)] == [0, 0, None]
    gate.consumed(3, 0)
    assert [gate.try_admit(4), gate.try_admit(3)] == [None, 0]
    assert gate.outstanding == 10


def test_what_is_returned_may_be_submitted_again() -> None:
    gate = StalenessGate(batch_samples=4, max_staleness=0)
    assert [gate.try_admit(4), gate.try_admit(1)] == [0, None]
    gate.returned(3, 0)
    assert [gate.try_admit(3), gate.try_admit(1)] == [0, None]
    assert (gate.counts.submitted, gate.counts.returned, gate.outstanding) == (7, 3, 4)


def test_a_version_that_would_strand_samples_is_refused_until_they_are_consumed() -> None:
    gate = StalenessGate(batch_samples=4, max_staleness=1)
    assert [gate.try_admit(4), gate.try_admit(4)] == [0, 0]
    gate.consumed(3, 0)
    gate.advance(1)
    assert (gate.due, gate.oldest) == (5, 0)
    with pytest.raises(SamplesDueError) as refused:
        gate.advance(2)
    assert (refused.value.due, refused.value.oldest, gate.version) == (5, 0, 1)
    gate.consumed(4, 0)
    gate.returned(1, 0)
    gate.advance(2)
    assert (gate.due, gate.oldest, gate.version) == (0, None, 2)


@pytest.mark.parametrize("version", [3, 2, -1, True, 4.0])
def test_versions_only_grow(version: Any) -> None:
    gate = StalenessGate(batch_samples=4, max_staleness=1, version=3)
    with pytest.raises(VersionNotNewerError):
        gate.advance(version)
    assert gate.version == 3


def test_rows_that_were_left_out_count_as_cut_and_those_that_are_there_twice_once() -> None:
    gate = StalenessGate(batch_samples=8, max_staleness=0)
    gate.try_admit(8)
    whole = rollouts(((0, 1),), None, ((0, 1),), ((0, 1),))
    gate.count(whole.select([True, True, False, False]), 0, samples=4)
    assert (gate.counts.consumed, gate.counts.failed, gate.counts.cut, gate.outstanding) == (1, 1, 2, 4)
    gate.count(RolloutBatch.cat([whole, whole]), 0, samples=4)
    assert (gate.counts.consumed, gate.counts.failed, gate.counts.cut, gate.outstanding) == (4, 2, 2, 0)
    gate.advance(1)


def test_more_than_is_outstanding_cannot_be_consumed_or_returned() -> None:
    gate = StalenessGate(batch_samples=4, max_staleness=1)
    gate.try_admit(2)
    for take in (gate.consumed, gate.returned):
        for samples, admitted in ((3, 0), (1, 1)):
            with pytest.raises(NotOutstandingError):
                take(samples, admitted)
    with pytest.raises(NotOutstandingError):
        gate.count(rollouts(((0, 1),), None, None), 0)
    assert (gate.outstanding, gate.counts.consumed, gate.counts.failed, gate.counts.returned) == (2, 0, 0, 0)


@pytest.mark.parametrize(
    "arguments",
    [
        (-1, 0), (8.0, 0), (True, 0), ("3", 0), (None, 0), (8, -1), (8, False), (8, None), (8, "0"), (0, None),
        (8, 0, [0] * 7), (8, 0, [None] * 8), (8, 0, [0.0] * 8), (8, 0, [False] * 8), (8, 0, [-1] * 8), (1, 0, "3"),
    ],
)  # fmt: skip
def test_what_is_no_number_of_samples_or_no_version_is_refused_and_changes_nothing(arguments: tuple[Any, ...]) -> None:
    gate = StalenessGate(batch_samples=8, max_staleness=1)
    gate.try_admit(8)
    takes: list[Callable[..., None]] = [gate.consumed, gate.returned] if len(arguments) == 2 else [gate.consumed]
    for take in takes:
        with pytest.raises(GateArgumentError):
            take(*arguments)
    assert (gate.outstanding, gate.counts.consumed, gate.counts.returned, gate.staleness) == (8, 0, 0, {})


def test_none_consumed_and_none_returned_change_nothing() -> None:
    gate = StalenessGate(batch_samples=8, max_staleness=1)
    gate.try_admit(8)
    gate.consumed(0, 0)
    gate.consumed(0, 7, [])
    gate.returned(0, 0)
    assert (gate.outstanding, gate.counts.consumed, gate.counts.returned, gate.staleness) == (8, 0, 0, {})


def test_what_can_never_be_admitted_is_refused_at_once() -> None:
    gate = StalenessGate(batch_samples=4, max_staleness=1, max_outstanding=6)
    for samples in (7, 0, -1, True):
        with pytest.raises(GateArgumentError):
            gate.try_admit(samples)
    for samples, staleness in ((0, 1), (4, -1), (4, 1.5)):
        with pytest.raises(GateArgumentError):
            StalenessGate(batch_samples=samples, max_staleness=staleness)  # type: ignore[arg-type] # one is none
    assert gate.try_admit(6) == 0


def test_staleness_is_counted_by_the_oldest_version_that_sampled() -> None:
    gate = StalenessGate(batch_samples=4, max_staleness=2)
    gate.try_admit(4)
    gate.advance(1)
    gate.try_admit(2)
    gate.consumed(3, 0, [0, 0, 1])
    gate.consumed(2, 1)
    gate.advance(2)
    gate.consumed(1, 0, [3])  # a worker swapped before the trainer advanced
    assert gate.staleness == {1: 2, 0: 4}
    with pytest.raises(GateArgumentError):
        gate.consumed(1, 0, [0, 0])


def test_a_batch_is_counted_by_completions_and_failed_rows() -> None:
    gate = StalenessGate(batch_samples=4, max_staleness=2, version=3)
    gate.try_admit(8)
    gate.advance(4)
    gate.count(rollouts(((3, 2), (4, 6)), None, ((4, 1),), (), ((5, 1),)), 3)  # an empty completion is no failure
    gate.count(rollouts(None, None, None), 3)
    assert gate.staleness == {1: 2, 0: 2}
    assert (gate.counts.consumed, gate.counts.failed, gate.counts.returned, gate.outstanding) == (4, 4, 0, 0)


def test_rows_of_groups_that_were_cut_are_counted_apart_and_stay_so_over_a_restart() -> None:
    gate = StalenessGate(batch_samples=4, max_staleness=1)
    gate.try_admit(4)
    cut = error_of(1).model_copy(update={"code": "not_needed"})
    config = GenerationConfig(max_new_tokens=8, num_return_sequences=4, first_k=2)
    kept = result_of(0, [5], [[6], [7]], sample_index=int32(1, 3), cut_lengths=int32(4, 4))

    gate.count(assemble(batch_of([[5], [5]], config), {0: kept, 1: cut}), 0)

    assert (gate.counts.consumed, gate.counts.failed, gate.counts.cut, gate.outstanding) == (2, 0, 2, 0)
    after = StalenessGate(batch_samples=4, max_staleness=1)
    after.restore(gate.state, Counter())
    assert (after.counts.cut, after.counts.submitted) == (2, 4)


def test_a_trainer_that_takes_one_batch_a_version_is_never_refused_however_much_of_it_failed() -> None:
    gate = StalenessGate(batch_samples=8, max_staleness=1)
    under_way: list[int] = []

    def submit_what_fits() -> None:
        while (admitted := gate.try_admit(8)) is not None:
            under_way.append(admitted)

    submit_what_fits()
    for step in range(6):
        gate.count(rollouts(*[((step, 1),)] * (step % 3), *[None] * (8 - step % 3)), under_way.pop(0))
        submit_what_fits()  # as an admit that waits would, before the version
        gate.advance(step + 1)
        submit_what_fits()
    assert (gate.counts.consumed, gate.counts.failed) == (6, 42)


def test_a_worker_that_sampled_with_an_older_policy_than_admitted_is_counted_as_late() -> None:
    gate = StalenessGate(batch_samples=4, max_staleness=1, version=5)
    gate.try_admit(2)
    gate.consumed(2, 5, [3, 4])
    assert (gate.counts.late, gate.staleness) == (1, {2: 1, 1: 1})


def test_repr_says_where_it_stands() -> None:
    gate = StalenessGate(batch_samples=8, max_staleness=1, version=2)
    gate.try_admit(5)
    assert repr(gate) == ("<StalenessGate version 2: 5 of 16 submitted, 5 of 16 outstanding, 0 due, 0 waiting>")


async def test_admit_waits_for_the_version_and_tells_it() -> None:
    gate = StalenessGate(batch_samples=4, max_staleness=0)
    assert await gate.admit(4) == 0
    waiting = asyncio.create_task(gate.admit(4))
    await settled()
    assert (waiting.done(), gate.waiting) == (False, 4)
    gate.consumed(4, 0)
    await settled()
    assert not waiting.done()
    gate.advance(1)
    assert await asyncio.wait_for(waiting, 20) == 1
    assert (gate.counts.at_once, gate.counts.waited) == (4, 4)


async def test_a_large_request_is_not_overtaken_by_small_ones() -> None:
    gate = StalenessGate(batch_samples=8, max_staleness=0)
    await gate.admit(4)
    large = asyncio.create_task(gate.admit(8))
    await settled()
    small = asyncio.create_task(gate.admit(1))
    await settled()
    assert (small.done(), gate.try_admit(1)) == (False, None)
    gate.returned(4, 0)
    assert await asyncio.wait_for(large, 20) == 0
    assert not small.done()
    gate.returned(8, 0)
    assert await asyncio.wait_for(small, 20) == 0


async def test_cancelling_the_first_in_line_lets_the_next_one_in() -> None:
    gate = StalenessGate(batch_samples=8, max_staleness=0)
    await gate.admit(4)
    large = asyncio.create_task(gate.admit(8))
    await settled()
    small = asyncio.create_task(gate.admit(4))
    await settled()
    large.cancel()
    assert await asyncio.wait_for(small, 20) == 0
    assert (gate.outstanding, gate.waiting, gate.counts.cancelled) == (8, 0, 8)


async def test_cancelling_what_was_just_admitted_gives_it_to_the_next() -> None:
    gate = StalenessGate(batch_samples=4, max_staleness=0)
    await gate.admit(4)
    first = asyncio.create_task(gate.admit(4))
    await settled()
    second = asyncio.create_task(gate.admit(3))
    await settled()
    gate.returned(4, 0)  # admits the first, which has not run since
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await asyncio.wait_for(second, 20) == 0
    assert gate.outstanding == 3
    assert (gate.counts.at_once, gate.counts.waited, gate.counts.cancelled) == (4, 3, 4)


async def test_admitting_between_a_cancel_and_its_arrival_counts_it_once() -> None:
    gate = StalenessGate(batch_samples=4, max_staleness=0)
    await gate.admit(4)
    first = asyncio.create_task(gate.admit(4))
    await settled()
    first.cancel()
    gate.returned(4, 0)
    await settled()
    assert (gate.outstanding, gate.waiting, gate.counts.cancelled, gate.counts.waited) == (0, 0, 4, 0)
    assert gate.try_admit(4) == 0
