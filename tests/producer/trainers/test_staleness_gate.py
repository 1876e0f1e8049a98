"""No sample is consumed more than k versions late, nothing is lost by cancelling, nobody is overtaken or starved."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rollstream import (
    GateArgumentError,
    GenerationConfig,
    NotOutstandingError,
    RolloutBatch,
    SamplesDueError,
    StalenessGate,
    VersionNotNewerError,
)
from rollstream.producer.batches.rollout_batch import assemble
from rollstream.producer.demo.tiny_model import write_model
from tests.support.answers import batch_of, error_of, result_of
from tests.support.worker_process import ROOT, running_worker


def rollouts(*rows: tuple[tuple[int, int], ...] | None) -> RolloutBatch:
    """A prompt a row, by the spans of its completion; None failed."""
    batch = batch_of([[5]] * len(rows), GenerationConfig(max_new_tokens=8))
    done = {
        group: error_of(group, [5])
        if spans is None
        else result_of(group, [5], [[6] * sum(tokens for _, tokens in spans)], version_spans=(spans,))
        for group, spans in enumerate(rows)
    }
    return assemble(batch, done)


# The rule


@pytest.mark.parametrize(
    ("batch", "k", "start", "version", "allowed"),
    [(8, 0, 0, 0, 8), (8, 2, 0, 0, 24), (8, 0, 0, 3, 32), (5, 4, 0, 2, 35), (8, 1, 7, 7, 16), (8, 1, 7, 9, 32)],
)
def test_samples_ever_submitted_are_bounded_by_version_and_staleness(
    batch: int, k: int, start: int, version: int, allowed: int
) -> None:
    gate = StalenessGate(batch, k, version=start)
    submitted = 0
    for at in range(start, version + 1):
        if at > start:
            gate.advance(at)
        while (admitted := gate.try_admit(1)) is not None:
            submitted += 1
            gate.consumed(1, admitted)
    assert (submitted, gate.limit) == (allowed, allowed)


def test_max_outstanding_bounds_what_is_not_yet_consumed() -> None:
    gate = StalenessGate(8, 1, max_outstanding=10)
    assert [gate.try_admit(5), gate.try_admit(5), gate.try_admit(1)] == [0, 0, None]
    gate.consumed(3, 0)
    assert [gate.try_admit(4), gate.try_admit(3)] == [None, 0]
    assert gate.outstanding == 10


def test_what_is_returned_may_be_submitted_again() -> None:
    gate = StalenessGate(4, 0)
    assert [gate.try_admit(4), gate.try_admit(1)] == [0, None]
    gate.returned(3, 0)
    assert [gate.try_admit(3), gate.try_admit(1)] == [0, None]
    assert (gate.counts.submitted, gate.counts.returned, gate.outstanding) == (7, 3, 4)


def test_a_version_that_would_strand_samples_is_refused_until_they_are_consumed() -> None:
    gate = StalenessGate(4, 1)
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
    gate = StalenessGate(4, 1, version=3)
    with pytest.raises(VersionNotNewerError):
        gate.advance(version)
    assert gate.version == 3


def test_more_than_is_outstanding_cannot_be_consumed_or_returned() -> None:
    gate = StalenessGate(4, 1)
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
    gate = StalenessGate(8, 1)
    gate.try_admit(8)
    takes: list[Callable[..., None]] = [gate.consumed, gate.returned] if len(arguments) == 2 else [gate.consumed]
    for take in takes:
        with pytest.raises(GateArgumentError):
            take(*arguments)
    assert (gate.outstanding, gate.counts.consumed, gate.counts.returned, gate.staleness) == (8, 0, 0, {})


def test_none_consumed_and_none_returned_change_nothing() -> None:
    gate = StalenessGate(8, 1)
    gate.try_admit(8)
    gate.consumed(0, 0)
    gate.consumed(0, 7, [])
    gate.returned(0, 0)
    assert (gate.outstanding, gate.counts.consumed, gate.counts.returned, gate.staleness) == (8, 0, 0, {})


def test_what_can_never_be_admitted_is_refused_at_once() -> None:
    gate = StalenessGate(4, 1, max_outstanding=6)
    for samples in (7, 0, -1, True):
        with pytest.raises(GateArgumentError):
            gate.try_admit(samples)
    for bounds in ((0, 1), (4, -1), (4, 1.5)):
        with pytest.raises(GateArgumentError):
            StalenessGate(*bounds)
    assert gate.try_admit(6) == 0


def test_staleness_is_counted_by_the_oldest_version_that_sampled() -> None:
    gate = StalenessGate(4, 2)
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
    gate = StalenessGate(4, 2, version=3)
    gate.try_admit(8)
    gate.advance(4)
    gate.count(rollouts(((3, 2), (4, 6)), None, ((4, 1),), (), ((5, 1),)), 3)  # an empty completion is no failure
    gate.count(rollouts(None, None, None), 3)
    assert gate.staleness == {1: 2, 0: 2}
    assert (gate.counts.consumed, gate.counts.failed, gate.counts.returned, gate.outstanding) == (4, 4, 0, 0)


def test_a_trainer_that_takes_one_batch_a_version_is_never_refused_however_much_of_it_failed() -> None:
    gate = StalenessGate(8, 1)
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
    gate = StalenessGate(4, 1, version=5)
    gate.try_admit(2)
    gate.consumed(2, 5, [3, 4])
    assert (gate.counts.late, gate.staleness) == (1, {2: 1, 1: 1})


def test_repr_says_where_it_stands() -> None:
    gate = StalenessGate(8, 1, version=2)
    gate.try_admit(5)
    assert repr(gate) == ("<StalenessGate version 2: 5 of 16 submitted, 5 of 16 outstanding, 0 due, 0 waiting>")


# Waiting


async def settled() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_admit_waits_for_the_version_and_tells_it() -> None:
    gate = StalenessGate(4, 0)
    assert await gate.admit(4) == 0
    waiting = asyncio.create_task(gate.admit(4))
    await settled()
    assert (waiting.done(), gate.waiting) == (False, 4)
    gate.consumed(4, 0)
    await settled()
    assert not waiting.done()
    gate.advance(1)
    assert await asyncio.wait_for(waiting, 1) == 1
    assert (gate.counts.at_once, gate.counts.waited) == (4, 4)


async def test_a_large_request_is_not_overtaken_by_small_ones() -> None:
    gate = StalenessGate(8, 0)
    await gate.admit(4)
    large = asyncio.create_task(gate.admit(8))
    await settled()
    small = asyncio.create_task(gate.admit(1))
    await settled()
    assert (small.done(), gate.try_admit(1)) == (False, None)
    gate.returned(4, 0)
    assert await asyncio.wait_for(large, 1) == 0
    assert not small.done()
    gate.returned(8, 0)
    assert await asyncio.wait_for(small, 1) == 0


async def test_cancelling_the_first_in_line_lets_the_next_one_in() -> None:
    gate = StalenessGate(8, 0)
    await gate.admit(4)
    large = asyncio.create_task(gate.admit(8))
    await settled()
    small = asyncio.create_task(gate.admit(4))
    await settled()
    large.cancel()
    assert await asyncio.wait_for(small, 1) == 0
    assert (gate.outstanding, gate.waiting, gate.counts.cancelled) == (8, 0, 8)


async def test_cancelling_what_was_just_admitted_gives_it_to_the_next() -> None:
    gate = StalenessGate(4, 0)
    await gate.admit(4)
    first = asyncio.create_task(gate.admit(4))
    await settled()
    second = asyncio.create_task(gate.admit(3))
    await settled()
    gate.returned(4, 0)  # admits the first, which has not run since
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await asyncio.wait_for(second, 1) == 0
    assert gate.outstanding == 3
    assert (gate.counts.at_once, gate.counts.waited, gate.counts.cancelled) == (4, 3, 4)


async def test_admitting_between_a_cancel_and_its_arrival_counts_it_once() -> None:
    gate = StalenessGate(4, 0)
    await gate.admit(4)
    first = asyncio.create_task(gate.admit(4))
    await settled()
    first.cancel()
    gate.returned(4, 0)
    await settled()
    assert (gate.outstanding, gate.waiting, gate.counts.cancelled, gate.counts.waited) == (0, 0, 4, 0)
    assert gate.try_admit(4) == 0


# For every order of events


class AnyTrainer(RuleBasedStateMachine):
    """Asks, cancels, consumes in any order, returns and advances at will; keeps its own books."""

    @initialize(
        batch=st.integers(1, 6), k=st.integers(0, 3), room=st.integers(1, 30) | st.none(), version=st.integers(0, 5)
    )
    def start(self, batch: int, k: int, room: int | None, version: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.gate = StalenessGate(batch, k, max_outstanding=room, version=version)
        self.first, self.now = version, version
        self.largest = min((k + 1) * batch, (k + 1) * batch if room is None else room)
        self.room = (k + 1) * batch if room is None else room
        self.asked: list[tuple[int, asyncio.Task[int]]] = []
        self.told: set[int] = set()
        self.held: list[list[int]] = []
        """[admitted at, samples]"""
        self.used = self.lost = self.given_back = 0

    def settle(self) -> None:
        self.loop.run_until_complete(settled())
        for number, (samples, task) in enumerate(self.asked):
            if number not in self.told and task.done():
                self.told.add(number)
                if not task.cancelled():
                    self.held.append([task.result(), samples])

    def pending(self) -> list[tuple[int, asyncio.Task[int]]]:
        return [(samples, task) for samples, task in self.asked if not task.done()]

    @rule(data=st.data())
    def ask(self, data: st.DataObject) -> None:
        samples = data.draw(st.integers(1, self.largest))
        self.asked.append((samples, self.loop.create_task(self.gate.admit(samples))))
        self.settle()

    @rule(data=st.data(), also_free=st.booleans())
    def cancel(self, data: st.DataObject, also_free: bool) -> None:
        """With `also_free` room is made in the same turn of the loop, before or after."""
        tasks = [task for _, task in self.pending()]
        if not tasks:
            return
        before = data.draw(st.booleans())
        if also_free and before:
            self.take(data, consume=False)
        data.draw(st.sampled_from(tasks)).cancel()
        if also_free and not before:
            self.take(data, consume=False)
        self.settle()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def count(self, data: st.DataObject) -> None:
        """A batch, some of it failed."""
        entry = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        spans = st.integers(entry[0], self.now + 1).map(lambda version: ((version, 1),))
        rows = data.draw(st.lists(spans | st.none(), min_size=entry[1], max_size=entry[1]))
        self.gate.count(rollouts(*rows), entry[0])
        self.lost += rows.count(None)
        self.used += len(rows) - rows.count(None)
        self.settle()

    @precondition(lambda self: self.held)
    @rule(data=st.data(), consume=st.booleans())
    def use(self, data: st.DataObject, consume: bool) -> None:
        self.take(data, consume)
        self.settle()

    def take(self, data: st.DataObject, consume: bool) -> None:
        if not self.held:
            return
        entry = data.draw(st.sampled_from(self.held))
        admitted, samples = entry[0], data.draw(st.integers(1, entry[1]))
        entry[1] -= samples
        self.held = [one for one in self.held if one[1]]
        if consume:
            versions = data.draw(st.lists(st.integers(admitted, self.now + 1), min_size=samples, max_size=samples))
            assert self.now - admitted <= self.gate.max_staleness, "consumed too late"
            self.gate.consumed(samples, admitted, versions)
            self.used += samples
        else:
            self.gate.returned(samples, admitted)
            self.given_back += samples

    @rule(by=st.integers(1, 3))
    def advance(self, by: int) -> None:
        stranded = [entry for entry in self.held if self.now + by - entry[0] > self.gate.max_staleness]
        if stranded:
            with pytest.raises(SamplesDueError):
                self.gate.advance(self.now + by)
        else:
            self.gate.advance(self.now + by)
            self.now += by
        self.settle()

    @invariant()
    def books_agree(self) -> None:
        counts, held = self.gate.counts, sum(samples for _, samples in self.held)
        assert self.gate.outstanding == held
        assert (counts.consumed, counts.failed, counts.returned) == (self.used, self.lost, self.given_back)
        assert counts.submitted == held + self.used + self.lost + self.given_back
        assert counts.late == 0
        assert counts.cancelled == sum(samples for samples, task in self.asked if task.cancelled())
        assert sum(self.gate.staleness.values()) == self.used
        assert max(self.gate.staleness, default=0) <= self.gate.max_staleness

    @invariant()
    def bounds_hold_and_nobody_waits_needlessly_or_is_overtaken(self) -> None:
        net = sum(samples for _, samples in self.held) + self.used + self.lost
        limit = (self.now - self.first + self.gate.max_staleness + 1) * self.gate.batch_samples
        held = sum(samples for _, samples in self.held)
        assert net <= limit
        assert held <= self.room
        waiting = self.pending()
        assert self.gate.waiting == sum(samples for samples, _ in waiting)
        if waiting:
            assert net + waiting[0][0] > limit or held + waiting[0][0] > self.room
            asked = [task for _, task in self.asked]
            after = asked[asked.index(waiting[0][1]) :]
            assert not [task for task in after if task.done() and not task.cancelled()], "somebody was overtaken"

    def teardown(self) -> None:
        if hasattr(self, "loop"):
            for _, task in self.pending():
                task.cancel()
            self.settle()
            assert self.gate.waiting == 0
            self.loop.close()


TestAnyTrainer = AnyTrainer.TestCase
TestAnyTrainer.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(0, 3), st.data())
def test_a_trainer_that_consumes_in_order_never_hangs_and_is_never_refused(
    batch: int, k: int, data: st.DataObject
) -> None:
    divisors = [size for size in range(1, batch + 1) if batch % size == 0]
    fixed = st.sampled_from(divisors).map(lambda size: [size] * (6 * batch // size))
    any_size = st.lists(st.integers(1, k * batch + 1), min_size=6 * batch, max_size=6 * batch)
    sizes = data.draw(fixed | any_size)

    async def train() -> StalenessGate:
        gate, queue = StalenessGate(batch, k), asyncio.Queue[int]()

        async def submit() -> None:
            for size in sizes:
                admitted = await gate.admit(size)
                for _ in range(size):
                    queue.put_nowait(admitted)

        submitting = asyncio.create_task(submit())
        for step in range(5):
            for admitted in [await queue.get() for _ in range(batch)]:
                gate.consumed(1, admitted)
            gate.advance(step + 1)
        submitting.cancel()
        return gate

    gate = asyncio.run(asyncio.wait_for(train(), 10))
    assert gate.counts.consumed == 5 * batch
    assert max(gate.staleness) <= k


# With a client


def documented_loops() -> list[Any]:
    """The programs of docs/trainers.md that use a gate, as they stand there."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "trainers.md").read_text(), re.DOTALL)
    found = [block for block in blocks if "StalenessGate(" in block]
    return [pytest.param(block, id="async" if "async def" in block else "blocking") for block in found]


def test_both_documented_loops_are_tested() -> None:
    assert [parameter.id for parameter in documented_loops()] == ["async", "blocking"]


@pytest.mark.parametrize("program", documented_loops())
def test_the_documented_loop_keeps_the_bound_and_loses_no_sample_where_groups_fail(
    redis_url: str, policy: str, tmp_path: Path, program: str
) -> None:
    good, bad = [5, 6], [4000]  # no token of the stub engine's
    batches = [[good, bad], [bad, good], [good, good], [bad, bad], [good, good], [good, good]]

    def save(version: int) -> Path:
        return write_model(tmp_path / f"v{version}", seed=version, tokenizer=False)

    defined: dict[str, Any] = {}
    exec(program.replace("math-7b", policy), defined)
    stub = ("--engine", "stub", "--stub-vocab-size", "1000", "--checkpoint-dir", str(tmp_path))
    with running_worker(redis_url, policy, *stub):
        ended = defined["main"](redis_url, batches, save)
        gate: StalenessGate = asyncio.run(ended) if inspect.iscoroutine(ended) else ended

    counts = gate.counts
    assert (counts.consumed, counts.failed, counts.returned, counts.late) == (8 * 4, 4 * 4, 0, 0)
    assert (counts.submitted, gate.outstanding, gate.version) == (48, 0, 6)
    assert gate.staleness[0] + gate.staleness[1] == 32
    assert gate.staleness[1] > 0, "nothing was sampled while the trainer trained"
