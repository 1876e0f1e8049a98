"""A follower serves what reproduces its probe, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis.asyncio import Redis

from rollstream.schemas.wire.policies import Activate
from rollstream.schemas.wire.proofs.probe import Probe
from rollstream.worker.engine import Prove, SwapMode
from rollstream.worker.errors import EngineDiedError
from rollstream.worker.versions.follower import VersionFollower
from rollstream.worker.versions.proofs import Proofs
from rollstream.worker.weights.checkpoint import Content
from tests.support.faults import Queue
from tests.support.weights.following import Recording, following, prepared, served
from tests.support.weights.probes import stub_probe
from tests.support.weights.versions import activate_by_hand, announce_step, follower_of
from tests.support.worker_process import until_true


async def test_a_version_that_does_not_reproduce_its_probe_is_refused_and_the_old_one_serves_on(
    followed: VersionFollower, queue: Queue, steps: Path, proofs: Proofs
) -> None:
    announce_step(queue, steps, 1, probe=stub_probe(1))
    async with following(followed):
        assert str(proofs.of(1)) == "mean 0, largest 0 nats off (16 tokens in 2 rows, float32)"

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
