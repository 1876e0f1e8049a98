"""While the engine has no files to go back to, no version is loaded; it is once they are here, without a long wait."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis.asyncio import Redis

from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.errors import VersionRefusedError
from rollstream.worker.rounds.receiver import RoundReceiver
from rollstream.worker.versions import retries
from rollstream.worker.weights.checkpoint import Stamp
from tests.support.faults import Queue
from tests.support.weights.versions import announce_step, follower_of


class Rounds(RoundReceiver):
    """Whose files of what is served are here when the test says so."""

    def __init__(self) -> None:
        self.here = False

    async def check_way_back(self) -> None:
        if not self.here:
            raise VersionRefusedError("no files are here yet of version 0, to go back to: not in the store")

    def stamp(self) -> Stamp:
        return () if self.here else (("way back", 0, 0),)


async def test_a_version_waits_for_the_files_of_the_one_before_and_is_tried_again_as_soon_as_they_are_here(
    redis: Redis, queue: Queue, steps: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "CHANGED_S", 0.0)
    engine, rounds = StubEngine(WorkerSettings(policy=queue.keys.policy, engine="stub")), Rounds()
    follower = follower_of(redis, queue, engine, steps, rounds=rounds)
    announce_step(queue, steps, 1)

    await follower.begin()
    assert (engine.policy_version, follower.adrift) == (0, True)
    assert "no files are here yet of version 0" in follower.error

    rounds.here = True
    await follower.begin()
    assert engine.policy_version == 1
