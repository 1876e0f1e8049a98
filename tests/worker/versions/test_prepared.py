"""Versions are prepared while the old one serves, wait for their activation, and then only swap."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from redis.asyncio import Redis

from rollstream.schemas.wire.policies import Activate
from rollstream.schemas.wire.probe import Probe
from rollstream.worker.checkpoints.supply import CheckpointSupply, Prepared, Wanted
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engine import Prove, SwapMode
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.errors import EngineDiedError, SwapFailedError
from rollstream.worker.versions.follower import VersionFollower
from rollstream.worker.versions.patience import Patience
from rollstream.worker.versions.proofs import Proofs
from rollstream.worker.weights.checkpoint import Content
from tests.support.faults import Queue
from tests.support.probes import stub_probe
from tests.support.versions import BY_HAND, activate_by_hand, announce_step, follower_of, write_steps
from tests.support.worker_process import until_true


class Recording(StubEngine):
    """Notes what is prepared and loaded; `hold`: folders whose preparation waits for `let_go`."""

    def __init__(self) -> None:
        super().__init__(WorkerSettings(policy="p", engine="stub"))
        self.calls: list[str] = []
        self.hold: set[str] = set()
        self.let_go = asyncio.Event()
        self.no_room = False

    async def prepare(self, path: Path, content: Content) -> None:
        self.calls.append(f"prepare {path.name}")
        assert content.sha256, "nobody read what is prepared"
        if path.name in self.hold:
            await self.let_go.wait()
        if self.no_room:
            raise SwapFailedError(path, 0, self.policy_version, "no memory to stage it")

    async def load_checkpoint(
        self, version: int, path: Path, mode: SwapMode, content: Content | None = None, prove: Prove | None = None
    ) -> float:
        self.calls.append(f"load {path.name}")
        return await super().load_checkpoint(version, path, mode, content, prove)


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    return write_steps(tmp_path, 1, 2, 3)


@pytest.fixture
def engine() -> Recording:
    return Recording()


@pytest.fixture
def proofs() -> Proofs:
    return Proofs()


@pytest.fixture
def followed(redis: Redis, queue: Queue, engine: Recording, steps: Path, proofs: Proofs) -> VersionFollower:
    return follower_of(redis, queue, engine, steps, proofs)


@asynccontextmanager
async def following(followed: VersionFollower) -> AsyncIterator[None]:
    """Until the end of this context, as in a worker."""
    await followed.begin()
    running = asyncio.create_task(followed.run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.wait([running])


def served(followed: VersionFollower, version: int) -> Callable[[], bool]:
    return lambda: followed.serving.version == version


def prepared(followed: VersionFollower, version: int) -> Callable[[], bool]:
    return lambda: followed.prepared == version


async def test_a_prepared_version_is_only_swapped_to_once_it_is_activated(
    followed: VersionFollower, engine: Recording, queue: Queue, steps: Path
) -> None:
    announce_step(queue, steps, 1)
    announce_step(queue, steps, 2, BY_HAND)
    async with following(followed):
        await until_true(prepared(followed, 2))
        assert (followed.serving.version, followed.newest, followed.announced) == (1, 1, 2)
        assert (followed.adrift, followed.waits) == (False, False)

        activate_by_hand(queue, 2)
        await until_true(served(followed, 2))

    assert (followed.newest, followed.prepared, followed.waits) == (2, 2, False)
    assert engine.calls == ["load step-1", "prepare step-2", "load step-2"], "it was prepared again, or too early"


async def test_before_anything_is_activated_the_boot_model_serves(
    followed: VersionFollower, queue: Queue, steps: Path
) -> None:
    announce_step(queue, steps, 1, BY_HAND)
    async with following(followed):
        await until_true(prepared(followed, 1))

        assert (followed.serving.version, followed.newest, followed.adrift, followed.waits) == (0, 0, False, False)


async def test_from_the_activation_on_no_job_is_taken_until_the_version_is_served(
    followed: VersionFollower, engine: Recording, queue: Queue, steps: Path
) -> None:
    engine.hold = {"step-1"}
    announce_step(queue, steps, 1, BY_HAND)
    async with following(followed):
        await until_true(lambda: engine.calls == ["prepare step-1"])
        assert not followed.waits

        activate_by_hand(queue, 1)
        await until_true(lambda: followed.waits)
        assert followed.serving.version == 0
        engine.let_go.set()
        await until_true(served(followed, 1))
        assert not followed.waits

    assert engine.calls == ["prepare step-1", "load step-1"], "what was under way began again"


async def test_a_worker_that_refuses_what_is_activated_serves_on_and_says_why(
    followed: VersionFollower, queue: Queue, steps: Path
) -> None:
    announce_step(queue, steps, 1)
    announce_step(queue, steps, 2, BY_HAND)
    (steps / "step-2" / "model.safetensors").unlink()
    async with following(followed):
        await until_true(lambda: "version 2, not active yet:" in followed.problem)
        assert followed.error == "", "jobs that allow no stale weights would be told of it"

        activate_by_hand(queue, 2)
        await until_true(lambda: followed.newest == 2)

        assert (followed.serving.version, followed.waits, followed.adrift) == (1, False, False)
        assert followed.error == followed.problem
        assert "step-2" in followed.error


async def test_the_newest_is_prepared_and_the_only_one(
    followed: VersionFollower, engine: Recording, queue: Queue, steps: Path
) -> None:
    async with following(followed):
        announce_step(queue, steps, 1, BY_HAND)
        await until_true(prepared(followed, 1))
        announce_step(queue, steps, 2, BY_HAND)
        await until_true(prepared(followed, 2))

        activate_by_hand(queue, 1)
        await until_true(served(followed, 1))
        await until_true(prepared(followed, 2))
        activate_by_hand(queue, 2)
        await until_true(served(followed, 2))

    loads = [call for call in engine.calls if call.startswith("load")]
    assert loads == ["load step-1", "load step-2"]


async def test_a_version_to_serve_at_once_overtakes_one_that_is_still_prepared(
    followed: VersionFollower, engine: Recording, queue: Queue, steps: Path
) -> None:
    engine.hold = {"step-1", "step-3"}
    announce_step(queue, steps, 1, BY_HAND)
    async with following(followed):
        await until_true(lambda: engine.calls == ["prepare step-1"])
        announce_step(queue, steps, 2)
        await until_true(served(followed, 2))
        announce_step(queue, steps, 3, BY_HAND)
        await until_true(lambda: engine.calls[-1] == "prepare step-3")
        announce_step(queue, steps, 4, step=2)
        await until_true(served(followed, 4))

        assert followed.prepared == 4


async def test_weights_that_do_not_come_hold_a_newer_version_up_for_a_minute_and_no_longer(
    followed: VersionFollower, engine: Recording, queue: Queue, steps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("rollstream.worker.versions.follower.time", SimpleNamespace(monotonic=lambda: now))
    engine.hold = {"step-1"}
    async with following(followed):
        announce_step(queue, steps, 1)
        await until_true(lambda: engine.calls == ["prepare step-1"])
        announce_step(queue, steps, 2)
        await until_true(lambda: followed.newest == 2)
        now = 159.0
        await followed.look()
        assert followed.loading == 1

        now = 161.0
        await until_true(served(followed, 2))


class Hanging(CheckpointSupply):
    """Its first checkpoint never comes."""

    async def prepare(self, wanted: Wanted) -> Prepared:
        if wanted.version == 1:
            await asyncio.Event().wait()
        return await super().prepare(wanted)


async def test_a_start_gives_up_on_weights_that_do_not_come_for_a_newer_version(
    redis: Redis, queue: Queue, engine: Recording, steps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("rollstream.worker.versions.follower.time", SimpleNamespace(monotonic=lambda: now))
    followed = follower_of(redis, queue, engine, checkpoints=Hanging(folder=steps))
    announce_step(queue, steps, 1)
    beginning = asyncio.create_task(followed.begin())
    await until_true(lambda: followed.loading == 1)
    announce_step(queue, steps, 2)
    await until_true(lambda: followed._patience.is_waiting)
    now = 161.0

    await asyncio.wait_for(beginning, 20)

    assert (followed.serving.version, followed.adrift) == (2, False)


def test_patience_lasts_twice_as_long_each_time_until_something_is_served() -> None:
    patience = Patience()

    def ends(now: float, is_waiting: bool = True) -> bool:
        return patience.ends(now, is_waiting=is_waiting)

    assert [ends(now) for now in (0, 59, 60, 61, 180, 181)] == [False, False, True, False, False, True]
    assert [ends(200), ends(300, False), ends(500), ends(739), ends(740)] == [False, False, False, False, True]
    patience.restore()
    assert [ends(1000), ends(1060)] == [False, True]


async def test_without_memory_to_stage_it_a_version_is_prepared_all_the_same(
    followed: VersionFollower, engine: Recording, queue: Queue, steps: Path
) -> None:
    engine.no_room = True
    announce_step(queue, steps, 1, BY_HAND)
    activate_by_hand(queue, 1)
    announce_step(queue, steps, 2, BY_HAND)
    async with following(followed):
        await until_true(prepared(followed, 2))
        activate_by_hand(queue, 2)
        await until_true(served(followed, 2))

    assert engine.calls == ["load step-1", "prepare step-2", "load step-2"]


async def test_a_version_that_does_not_reproduce_its_probe_is_refused_and_the_old_one_serves_on(
    followed: VersionFollower, queue: Queue, steps: Path, proofs: Proofs
) -> None:
    announce_step(queue, steps, 1, probe=stub_probe(1))
    async with following(followed):
        assert str(proofs.of(1)) == "mean 0, largest 0 nats off (5 tokens in 2 rows, float32)"

        announce_step(queue, steps, 2, probe=stub_probe(2, off=0.25))
        await until_true(lambda: bool(followed.error))
        assert (followed.serving.version, proofs.allows(2)) == (1, False)
        assert (
            "version 2 does not reproduce its probe: mean 0.25, largest 0.25 nats off, at most 0.002 and 0.05 allowed"
            in followed.error
        )

        announce_step(queue, steps, 3, probe=stub_probe(3))
        await until_true(served(followed, 3))
        assert (followed.error, proofs.allows(3)) == ("", True)


async def test_a_prepared_version_whose_proof_fails_is_read_again_before_it_is_tried_again(
    followed: VersionFollower, engine: Recording, queue: Queue, steps: Path
) -> None:
    announce_step(queue, steps, 1, Activate(when="by_hand"), stub_probe(1, off=1))
    async with following(followed):
        await until_true(prepared(followed, 1))
        activate_by_hand(queue, 1)
        await until_true(lambda: "does not reproduce" in followed.error)

        assert (followed.serving.version, followed.prepared, followed.waits) == (0, 0, False)
        assert engine.calls == ["prepare step-1", "load step-1"]


async def test_a_worker_whose_active_version_fails_its_proof_at_start_takes_no_job_until_another_passes(
    followed: VersionFollower, queue: Queue, steps: Path
) -> None:
    announce_step(queue, steps, 1, probe=stub_probe(1, off=1))
    async with following(followed):
        assert (followed.serving.version, followed.adrift, followed.waits) == (0, True, True)

        announce_step(queue, steps, 2, probe=stub_probe(2))
        await until_true(served(followed, 2))
        assert not followed.waits


@pytest.mark.parametrize("before", [None, stub_probe(1)])
async def test_what_is_served_and_announced_again_with_a_probe_is_proven_before_another_job_is_taken(
    followed: VersionFollower, queue: Queue, steps: Path, proofs: Proofs, before: Probe | None
) -> None:
    announce_step(queue, steps, 1, probe=before)
    async with following(followed):
        queue.redis.delete(queue.keys.versions())
        announce_step(queue, steps, 1, probe=stub_probe(1, off=5))
        await until_true(lambda: "version 1 does not reproduce its probe" in followed.error)
        assert (followed.serving.version, followed.waits) == (1, True)

        queue.redis.delete(queue.keys.versions())
        announce_step(queue, steps, 1, probe=stub_probe(1, off=0.001))
        await until_true(lambda: not followed.waits)
        proof = proofs.of(1)
        assert proof is not None
        assert (followed.serving.version, followed.error, proof.mean > 0) == (1, "", True)


async def test_what_is_served_and_announced_again_without_its_probe_serves_on(
    followed: VersionFollower, engine: Recording, queue: Queue, steps: Path, proofs: Proofs
) -> None:
    announce_step(queue, steps, 1, probe=stub_probe(1))
    async with following(followed):
        queue.redis.delete(queue.keys.versions())
        announce_step(queue, steps, 1)
        await followed.look()

        assert (followed.serving.version, followed.waits, proofs.of(1) is None) == (1, False, False)
        assert engine.calls == ["load step-1"]


class Credulous(Recording):
    """It swaps without asking whether the weights are right."""

    async def load_checkpoint(
        self, version: int, path: Path, mode: SwapMode, content: Content | None = None, prove: Prove | None = None
    ) -> float:
        assert prove is not None
        return await super().load_checkpoint(version, path, mode, content)


async def test_an_engine_that_does_not_ask_for_the_proof_ends_the_worker(
    redis: Redis, queue: Queue, steps: Path
) -> None:
    followed = follower_of(redis, queue, Credulous(), steps)
    announce_step(queue, steps, 1, probe=stub_probe(1))

    with pytest.raises(EngineDiedError, match="under version 1, which this worker has not proven"):
        await followed.begin()


async def test_the_proof_of_a_mixture_says_how_many_experts_its_probe_reached(
    followed: VersionFollower, queue: Queue, steps: Path, proofs: Proofs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Recording, "experts_reached", (61, 64))
    announce_step(queue, steps, 1, probe=stub_probe(1))

    async with following(followed):
        assert "float32, 61 of 64 experts reached)" in str(proofs.of(1))
