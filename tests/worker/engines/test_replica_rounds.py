"""Several engines of one worker in a round: each has ranks of its own, and all have the version or none."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rollstream.worker.config import WorkerSettings
from rollstream.worker.engine import Incoming, Score
from rollstream.worker.engines.replicas import Replicas
from rollstream.worker.engines.stub_link import taken
from rollstream.worker.errors import CheckpointRefusedError, EngineDiedError, ProofFailedError, RoundMissedError
from tests.support.weights.gloo_trainer import TIMEOUT_S, GlooTrainer
from tests.support.weights.seen_engine import Seen, request, settings
from tests.support.worker_process import settled

TENSORS = {"w": torch.ones(3), "v": torch.zeros(2, 2)}


def two(**fields: object) -> tuple[Replicas, list[Seen]]:
    engines = [Seen(weight_transfer="gloo", weights="redis", **fields) for _ in range(2)]
    return Replicas(engines), engines


async def receive(
    both: Replicas, trainer: GlooTrainer, prove: object = None, over: asyncio.Event | None = None
) -> None:
    incoming = trainer.incoming()
    await both.link(incoming, asyncio.Event())
    trainer.all_linked.set()
    await both.receive(1, incoming, "keep", prove, over or asyncio.Event())  # type: ignore[arg-type] # a Prove


def versions(engines: list[Seen]) -> list[int]:
    return [engine.policy_version for engine in engines]


async def test_every_engine_receives_and_proves_it() -> None:
    both, engines = two()
    proven = 0

    async def prove(_score: Score) -> None:
        nonlocal proven
        proven += 1
        assert versions(engines) == [0, 0], "one samples before all have proven it"
        await asyncio.sleep(0)

    assert both.info.ranks == 2
    await receive(both, GlooTrainer(TENSORS, ranks=2), prove)

    assert (versions(engines), proven) == ([1, 1], 2)


async def test_one_that_fails_its_proof_takes_all_back() -> None:
    both, engines = two()
    asked: list[Score] = []

    async def prove(score: Score) -> None:
        asked.append(score)
        if len(asked) == 2:
            raise ProofFailedError(1, "7 nats off")

    with pytest.raises(ProofFailedError, match="7 nats off"):
        await receive(both, GlooTrainer(TENSORS, ranks=2), prove)

    assert versions(engines) == [0, 0]


@pytest.mark.parametrize("error", [CheckpointRefusedError, EngineDiedError])
async def test_one_that_cannot_take_it_takes_all_back_without_a_probe_too(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    both, engines = two()
    fails = EngineDiedError("test") if error is EngineDiedError else CheckpointRefusedError(Path("round"), "w", "no")

    async def refuse(_version: int, incoming: Incoming, *_: object) -> float:
        link, engines[1]._link = engines[1]._link, None
        assert link is not None
        await taken(link, incoming.sent, asyncio.Event())
        raise fails

    monkeypatch.setattr(engines[1], "receive", refuse)
    async with asyncio.timeout(20):
        with pytest.raises(error):
            await receive(both, GlooTrainer(TENSORS, ranks=2))

    assert versions(engines) == [0, 0]


async def test_a_round_that_breaks_is_missed_by_all() -> None:
    both, engines = two()

    with pytest.raises(RoundMissedError, match="gloo"):
        await receive(both, GlooTrainer(TENSORS, dies_after=1, ranks=2))

    assert versions(engines) == [0, 0]


async def test_where_one_cannot_link_none_is_linked() -> None:
    both, engines = two()
    incoming = replace(GlooTrainer(TENSORS, ranks=3).incoming(), timeout_s=0.5)  # the third never comes

    with pytest.raises(RoundMissedError):
        await both.link(incoming, asyncio.Event())

    assert [engine._link for engine in engines] == [None, None]


async def test_a_round_that_is_over_before_all_have_met_is_waited_for_no_longer() -> None:
    both, engines = two()
    over = asyncio.Event()
    linking = asyncio.create_task(both.link(GlooTrainer(TENSORS, ranks=3).incoming(), over))  # the third never comes
    await settled()
    over.set()

    async with asyncio.timeout(TIMEOUT_S / 2):
        with pytest.raises(RoundMissedError, match="before it was over"):
            await linking

    assert [engine._link for engine in engines] == [None, None]


async def test_with_swap_wait_no_engine_links_before_its_completions_have_ended() -> None:
    both, engines = two(stub_tokens_per_s=50)
    busy = [asyncio.create_task(engine.generate(request("b/0", tokens=20))) for engine in engines[:1]]
    await asyncio.sleep(0)
    trainer = GlooTrainer(TENSORS, ranks=2)

    receiving = asyncio.create_task(both.receive(1, trainer.incoming(), "wait", None, asyncio.Event()))
    (completions,) = await asyncio.gather(*busy)
    assert not trainer.linked.is_set()
    await receiving

    assert versions(engines) == [1, 1]
    assert [completion.version_spans for completion in completions] == [((0, 20),)]


def test_replicas_take_part_by_gloo_alone() -> None:
    settings(replicas=2, weight_transfer="gloo", weights="redis", swap="wait")

    with pytest.raises(ValueError, match="replicas share one GPU, which NCCL takes once"):
        WorkerSettings(policy="p", model=Path("/"), replicas=2, weight_transfer="nccl", weights="redis")
