"""What a worker remembers of its versions' proofs decides what may leave it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from rollstream.schemas.wire.proofs.probe import Probe
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engine import Prove, SwapMode
from rollstream.worker.engines.replicas import Replicas
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.errors import EngineDiedError, ProofFailedError, SwapFailedError, UnprovenError
from rollstream.worker.versions.proof import Proof
from rollstream.worker.versions.proofs import Proofs
from rollstream.worker.weights.checkpoint import Content
from tests.support.faults import Queue
from tests.support.weights.probes import stub_probe
from tests.support.weights.versions import announce_step, follower_of, write_steps

SETTINGS = WorkerSettings(policy="p", engine="stub")
ENGINE = StubEngine(SETTINGS)
BROKEN = SwapFailedError(Path("step-7"), 7, 6, "test")


async def load(
    proofs: Proofs,
    version: int,
    probe: Probe | None,
    *engines: int,
    fails: BaseException | None = None,
) -> None:
    """Each engine asks for the proof with the weights of the version that it has loaded; then the load may fail."""
    with proofs.loading(version, probe, ENGINE.info) as prove:
        for loaded in engines:
            assert prove is not None
            await asked(prove, loaded)
        if fails is not None:
            raise fails


async def asked(prove: Prove, loaded: int) -> None:
    await prove(lambda request: ENGINE._scored(request, loaded))


async def test_only_a_version_that_has_passed_or_has_no_probe_may_sample() -> None:
    proofs = Proofs()
    proofs.allow(0)

    await load(proofs, 7, stub_probe(7), 7)
    with pytest.raises(ProofFailedError):
        await load(proofs, 8, stub_probe(8, off=1), 8)
    await load(proofs, 9, None)

    proofs.check([[(0, 5), (7, 3)], [(9, 1)]])
    for spans in ([(8, 1)], [(7, 1), (8, 1)], [(10, 2)]):
        with pytest.raises(UnprovenError, match="which this worker has not proven"):
            proofs.check([[(0, 1)], spans])
    assert issubclass(UnprovenError, EngineDiedError), "else the worker would go on"


@pytest.mark.parametrize("fails", [BROKEN, ProofFailedError(7, "test")])
async def test_what_one_engine_passed_counts_no_more_when_another_fails(fails: Exception) -> None:
    proofs = Proofs()

    with pytest.raises(type(fails)):
        await load(proofs, 7, stub_probe(7), 7, fails=fails)

    assert not proofs.allows(7)


async def test_a_failed_proof_counts_although_an_engine_hides_it() -> None:
    proofs = Proofs()

    async def hide() -> None:
        with proofs.loading(7, stub_probe(7), ENGINE.info) as prove:
            assert prove is not None
            await asked(prove, 7)
            with suppress(ProofFailedError):
                await asked(prove, 6)

    with pytest.raises(UnprovenError):
        await hide()

    assert not proofs.allows(7)


@pytest.mark.parametrize("before", [stub_probe(7), None])
async def test_what_is_loaded_under_a_known_number_must_pass_for_itself(before: Probe | None) -> None:
    proofs = Proofs()
    await load(proofs, 7, before, *([7] if before else []))

    with pytest.raises(UnprovenError):
        await load(proofs, 7, stub_probe(7))

    assert not proofs.allows(7)
    await load(proofs, 7, stub_probe(7), 7)
    assert proofs.allows(7)


@pytest.mark.parametrize("probe", [stub_probe(7), None])
async def test_what_weights_sampled_may_leave_while_others_of_their_number_fail(probe: Probe | None) -> None:
    proofs = Proofs()
    await load(proofs, 7, probe, *([7] if probe else []))

    with proofs.loading(7, stub_probe(7), ENGINE.info) as prove:
        proofs.check([[(7, 1)]])
        assert prove is not None
        await asked(prove, 7)
    with pytest.raises(SwapFailedError):
        await load(proofs, 7, stub_probe(7), fails=BROKEN)

    proofs.check([[(7, 1)]])


async def test_a_cancelled_load_keeps_its_proof_since_the_engine_carries_it_out() -> None:
    proofs = Proofs()

    with pytest.raises(asyncio.CancelledError):
        await load(proofs, 7, stub_probe(7), 7, fails=asyncio.CancelledError())

    assert proofs.allows(7)


async def test_a_version_without_a_probe_may_sample_in_the_engines_that_could_load_it() -> None:
    proofs = Proofs()

    with pytest.raises(SwapFailedError):
        await load(proofs, 7, None, fails=BROKEN)

    assert proofs.allows(7)


class Noticed(Proofs):
    """It says when it has allowed a version."""

    def __init__(self) -> None:
        super().__init__()
        self.allowed = asyncio.Event()

    def allow(self, version: int, proof: Proof | None = None) -> None:
        super().allow(version, proof)
        self.allowed.set()


class Slow(StubEngine):
    """Its load fails when another engine has passed its proof."""

    def __init__(self, passed: asyncio.Event) -> None:
        super().__init__(SETTINGS)
        self._passed = passed

    async def load_checkpoint(self, *_: Any) -> float:
        await self._passed.wait()
        raise BROKEN


async def test_a_version_that_one_of_two_engines_could_not_load_may_not_sample(
    redis: Redis, queue: Queue, tmp_path: Path
) -> None:
    proofs = Noticed()
    both = Replicas([StubEngine(SETTINGS), Slow(proofs.allowed)])
    followed = follower_of(redis, queue, both, write_steps(tmp_path, 1), proofs)
    announce_step(queue, tmp_path, 1, probe=stub_probe(1))

    await asyncio.wait_for(followed.begin(), 20)

    assert proofs.allowed.is_set()
    assert (followed.serving.version, both.policy_version, proofs.allows(1)) == (0, 0, False)


class Credulous(StubEngine):
    """It asks whether the weights of `step-1` are right, and of no others."""

    async def load_checkpoint(
        self, version: int, path: Path, mode: SwapMode, content: Content | None = None, prove: Prove | None = None
    ) -> float:
        return await super().load_checkpoint(version, path, mode, content, prove if path.name == "step-1" else None)


async def test_the_proof_of_a_number_is_none_of_what_a_stream_that_starts_again_calls_by_it(
    redis: Redis, queue: Queue, tmp_path: Path
) -> None:
    proofs = Proofs()
    followed = follower_of(redis, queue, Credulous(SETTINGS), write_steps(tmp_path, 1, 2), proofs)
    announce_step(queue, tmp_path, 1, probe=stub_probe(1))
    await followed.begin()
    assert proofs.allows(1)

    queue.redis.delete(queue.keys.versions())
    announce_step(queue, tmp_path, 1, probe=stub_probe(1), step=2)
    with pytest.raises(UnprovenError):
        await followed.begin()

    assert not proofs.allows(1)


async def test_replicas_are_asked_for_another_probe_of_what_they_serve(
    redis: Redis, queue: Queue, tmp_path: Path
) -> None:
    both = Replicas([StubEngine(SETTINGS), StubEngine(SETTINGS)])
    followed = follower_of(redis, queue, both, write_steps(tmp_path, 1), Proofs())
    announce_step(queue, tmp_path, 1, probe=stub_probe(1))
    await followed.begin()

    queue.redis.delete(queue.keys.versions())
    announce_step(queue, tmp_path, 1, probe=stub_probe(1, off=1))
    await followed.begin()

    assert "version 1 does not reproduce its probe" in followed.problem
