"""Versions are prepared while the old one serves, wait for their activation, and then only swap."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest
from redis.asyncio import Redis

from rollstream.worker.checkpoints.supply import CheckpointSupply, Prepared, Wanted
from rollstream.worker.versions.follower import VersionFollower
from rollstream.worker.versions.patience import Patience
from tests.support.faults import Queue
from tests.support.weights.following import Recording, following, prepared, served
from tests.support.weights.versions import BY_HAND, activate_by_hand, announce_step, follower_of
from tests.support.worker_process import until_true


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
