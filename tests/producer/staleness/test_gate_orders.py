"""A `StalenessGate` keeps its books and its bound for every order of asking, cancelling, consuming and advancing."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rollstream import SamplesDueError, StalenessGate
from tests.support.answers import rollouts
from tests.support.worker_process import settled


class AnyTrainer(RuleBasedStateMachine):
    """Asks, cancels, consumes in any order, returns and advances at will; keeps its own books."""

    @initialize(
        batch=st.integers(1, 6), k=st.integers(0, 3), room=st.integers(1, 30) | st.none(), version=st.integers(0, 5)
    )
    def start(self, batch: int, k: int, room: int | None, version: int) -> None:
        self.loop = asyncio.new_event_loop()
        self.gate = StalenessGate(batch_samples=batch, max_staleness=k, max_outstanding=room, version=version)
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


TestAnyTrainer.settings = settings(max_examples=60, stateful_step_count=25)


@settings(max_examples=60)
@given(st.integers(1, 12), st.integers(0, 3), st.data())
def test_a_trainer_that_consumes_in_order_never_hangs_and_is_never_refused(
    batch: int, k: int, data: st.DataObject
) -> None:
    divisors = [size for size in range(1, batch + 1) if batch % size == 0]
    fixed = st.sampled_from(divisors).map(lambda size: [size] * (6 * batch // size))
    any_size = st.lists(st.integers(1, k * batch + 1), min_size=6 * batch, max_size=6 * batch)
    sizes = data.draw(fixed | any_size)

    async def train() -> StalenessGate:
        gate, queue = StalenessGate(batch_samples=batch, max_staleness=k), asyncio.Queue[int]()

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
