"""A worker lets fewer sequences in while its engine's KV cache is full, says so, and asks only while it has work."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from rollstream.producer.cli.views.workers import state
from rollstream.producer.observe.fleet import FleetWorker, Presence
from rollstream.schemas.hashes.worker_report import WorkerReport
from rollstream.worker.config import WorkerSettings
from rollstream.worker.delivery.admission import Admission, Claim, Load
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.measure.measures import Measures
from rollstream.worker.operations import memory_watch
from rollstream.worker.operations.memory_watch import MemoryWatch
from rollstream.worker.requests import KvUse
from tests.support.worker_process import settled, until_true

GROUP = Load(groups=1, sequences=4, nbytes=1)


class FullEngine(StubEngine):
    """Its cache is as full as `told` says."""

    def __init__(self) -> None:
        super().__init__(WorkerSettings(policy="test", engine="stub"))
        self.told: KvUse | None = None
        self.asked = 0

    async def memory_use(self) -> KvUse | None:  # type: ignore[override] # the stub has none
        self.asked += 1
        return self.told


def use(used: float, running: int, waiting: int, preemptions: int) -> KvUse:
    return KvUse(used=used, running=running, waiting=waiting, preemptions=preemptions)


def busy(admission: Admission, groups: int) -> Claim:
    claim = admission.hold(0)
    admission.expect(claim, groups, GROUP)
    admission.queue(claim)
    return claim


async def test_it_lets_fewer_in_after_preemptions_and_all_again_when_nothing_runs() -> None:
    engine, admission, measures = FullEngine(), Admission(limit=32, places=64), Measures()
    watch = MemoryWatch(engine=engine, admission=admission, measures=measures, by="memory")
    claim = busy(admission, 20)
    engine.told = use(0.4, 32, 32, 0)
    await watch.look()
    assert (admission.load.sequences, admission.bound) == (64, 64)

    with capture_logs() as logs:
        engine.told = use(1.0, 20, 44, 3)
        await watch.look()

        assert (admission.bound, admission.is_full, measures.memory) == (28, True, engine.told)
        assert not admission.has_room
        for _ in range(9):
            admission.leave(claim, GROUP)
        assert admission.load.sequences == 28, "nine groups less, and no other got a place"
        admission.let_go(claim)
        await watch.look()
    assert admission.bound == 64
    assert [log["event"] for log in logs] == [
        "fewer sequences admitted", "as many sequences admitted as ever: the KV cache has room",
    ]  # fmt: skip


async def test_it_lets_more_in_again_as_sequences_end_while_others_wait() -> None:
    engine, admission = FullEngine(), Admission(limit=32, places=64)
    watch = MemoryWatch(engine=engine, admission=admission, measures=Measures(), by="memory")
    claim = busy(admission, 200)

    async def bound_after(used: float, *, groups: int = 0, ran: bool = True, preemptions: int = 3) -> int:
        for _ in range(groups):
            admission.leave(claim, GROUP, ran=ran)
        engine.told = use(used, 20, admission.load.sequences - 20, preemptions)
        await watch.look()
        return admission.bound

    assert await bound_after(0.4, preemptions=0) == 64
    assert await bound_after(1.0) == 28
    assert await bound_after(0.96, groups=10) == 28, "the cache is full"
    assert await bound_after(0.9) == 28, "nothing has ended since the last look"
    assert await bound_after(0.9, groups=2, ran=False) == 28, "an error shows nothing of the cache"
    assert await bound_after(0.9, groups=10) == 37, "little room"
    assert await bound_after(0.1, groups=10) == 64


async def test_a_worker_that_admits_by_count_tells_how_full_the_cache_is_and_lets_as_many_in() -> None:
    engine, admission, measures = FullEngine(), Admission(limit=32, places=64), Measures()
    watch = MemoryWatch(engine=engine, admission=admission, measures=measures, by="count")
    busy(admission, 20)
    for preemptions in (0, 3):
        engine.told = use(1.0, 20, 44, preemptions)
        await watch.look()

    assert (admission.bound, measures.memory) == (64, engine.told)


async def test_an_engine_that_tells_nothing_is_never_held_to_fewer() -> None:
    engine, admission, measures = FullEngine(), Admission(limit=32, places=64), Measures()
    busy(admission, 40)

    await MemoryWatch(engine=engine, admission=admission, measures=measures, by="memory").look()

    assert (admission.bound, measures.memory) == (64, None)


async def test_it_asks_while_there_is_something_to_run_and_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_watch, "PERIOD_S", 0.01)
    engine, admission = FullEngine(), Admission(limit=32, places=64)
    watching = asyncio.create_task(
        MemoryWatch(engine=engine, admission=admission, measures=Measures(), by="memory").run()
    )
    await asyncio.sleep(0.05)
    assert engine.asked == 0

    claim = busy(admission, 1)
    await until_true(lambda: engine.asked > 2)
    admission.let_go(claim)
    await asyncio.sleep(0.05)
    asked = engine.asked
    await asyncio.sleep(0.05)

    assert engine.asked == asked
    watching.cancel()
    await settled()


def test_the_state_of_a_worker_says_why_it_lets_fewer_in() -> None:
    report = WorkerReport(state="serving", places=18, most_places=64)
    one = FleetWorker(consumer="gpu-7", seen_s_ago=0.0, presence=Presence.LIVE, report=report)

    assert state(one).plain == "serving (kv cache full: 18 of 64 sequences)"
