"""Weights that come from the trainer's memory: right as those of a file, and gone without a trace where they break off.

By gloo and shared memory, since the engine is on the CPU. But for the link itself all is as with NCCL on a GPU.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from rollstream.producer.rounds.outgoing import Outgoing
from rollstream.transport.rounds.links import Link
from rollstream.transport.rounds.meeting import Meeting
from rollstream.worker.engine import Incoming, SwapMode
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.errors import CheckpointRefusedError, ProofFailedError, RoundMissedError, SwapFailedError
from rollstream.worker.requests import Adapter
from rollstream.worker.weights.checkpoint import read_content
from tests.real_engine.weight_swap.probes import Proof
from tests.real_engine.weight_swap.steps import greedy, in_flight, request, serves, swap, versions
from tests.support.engine.transformers_reference import Reference
from tests.support.weights.gloo_trainer import TIMEOUT_S, GlooTrainer
from tests.support.worker_process import settled

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="package")]


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


async def receive(
    engine: VllmEngine, trainer: GlooTrainer, prove: Any = None, over: asyncio.Event | None = None
) -> int:
    version, incoming = next(versions), trainer.incoming()
    await engine.link(incoming, asyncio.Event())
    trainer.all_linked.set()
    paused_s = await engine.receive(version, incoming, "keep", prove, over or asyncio.Event())
    assert engine.policy_version == version
    assert 0 < paused_s < TIMEOUT_S
    return version


async def located(engine: VllmEngine, folder: Path) -> None:
    await engine.located(engine.policy_version, folder, read_content(folder))


async def test_what_a_trainer_sends_is_served_as_if_it_came_from_a_file(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference], adapters: dict[str, Adapter]
) -> None:
    """With a tied output layer, an adapter and requests under way; the probe is scored before any of them goes on."""
    before = await swap(engine, models[0])
    with_adapter = await greedy(engine, adapter=adapters["math@1"])
    kept = await in_flight(engine, [request(max_new_tokens=200, temperature=0)])
    proof = Proof(reference(models[1]))

    version = await receive(engine, GlooTrainer(tensors_of(models[1])), proof)

    assert proof.versions == {version}
    assert [span[0] for span in (await kept)[0][0].version_spans] == [before, version]
    assert await serves(engine, reference(models[1]))
    changed = await greedy(engine, adapter=adapters["math@1"])
    assert changed.token_ids.tolist() != with_adapter.token_ids.tolist()
    assert await serves(engine, reference(models[1]))
    await located(engine, models[1])


async def test_what_comes_through_shared_memory_is_served(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference]
) -> None:
    await swap(engine, models[0])

    await receive(engine, GlooTrainer(tensors_of(models[1]), backend="ipc"), Proof(reference(models[1])))

    assert await serves(engine, reference(models[1]))
    await located(engine, models[1])


@pytest.mark.parametrize("dies_after", [0, 5])
async def test_a_round_that_breaks_leaves_the_old_weights(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference], dies_after: int
) -> None:
    before = await swap(engine, models[0])
    kept = await in_flight(engine, [request(max_new_tokens=100, temperature=0)])

    with pytest.raises(SwapFailedError, match="gloo"):
        await receive(engine, GlooTrainer(tensors_of(models[1]), dies_after=dies_after))

    assert engine.policy_version == before
    assert [span[0] for span in (await kept)[0][0].version_spans] == [before]
    assert await serves(engine, reference(models[0]))
    await receive(engine, GlooTrainer(tensors_of(models[1])))
    assert await serves(engine, reference(models[1]))
    await located(engine, models[1])


async def test_weights_that_fail_their_proof_are_gone(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference]
) -> None:
    before = await swap(engine, models[0])

    with pytest.raises(ProofFailedError):
        await receive(engine, GlooTrainer(tensors_of(models[2])), Proof(reference(models[1])))

    assert engine.policy_version == before
    assert await serves(engine, reference(models[0]))


async def test_a_trainer_that_stands_still_is_waited_for_no_longer_than_it_said(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference]
) -> None:
    await swap(engine, models[0])
    meeting = Meeting(backend="gloo", host="127.0.0.1", timeout_s=TIMEOUT_S, device=None)
    links: list[Link] = []
    linking = threading.Thread(target=lambda: links.append(meeting.link(2)))
    linking.start()
    sent = Outgoing(tensors=tensors_of(models[1]), backend="gloo").sent
    incoming = Incoming(backend="gloo", sent=sent, meeting=meeting.place, first_rank=1, world_size=2, timeout_s=2.0)
    await engine.link(incoming, asyncio.Event())

    with pytest.raises(SwapFailedError):
        await asyncio.wait_for(engine.receive(next(versions), incoming, "keep", None, asyncio.Event()), TIMEOUT_S)

    assert await serves(engine, reference(models[0]))


async def test_nothing_is_touched_where_there_is_nothing_to_go_back_to(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference]
) -> None:
    await swap(engine, models[0])
    await receive(engine, GlooTrainer(tensors_of(models[1])))

    with pytest.raises(RoundMissedError, match="no files yet"):
        await receive(engine, GlooTrainer(tensors_of(models[2])))
    with pytest.raises(SwapFailedError, match="no files yet"):
        await swap(engine, models[2])

    assert await serves(engine, reference(models[1]))
    await located(engine, models[1])
    await receive(engine, GlooTrainer(tensors_of(models[2])))
    assert await serves(engine, reference(models[2]))
    await located(engine, models[2])


async def test_another_version_is_loaded_once_the_files_to_go_back_to_are_gone_for_good(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference]
) -> None:
    await swap(engine, models[0])
    version = await receive(engine, GlooTrainer(tensors_of(models[1])))
    await engine.lost(version - 1)
    with pytest.raises(SwapFailedError, match="no files yet"):
        await swap(engine, models[2])

    await engine.lost(version)
    await swap(engine, models[2])

    assert await serves(engine, reference(models[2]))


@pytest.mark.parametrize("mode", ["wait", "abort"])
async def test_requests_under_way_end_before_or_begin_again_after_as_the_mode_says(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference], mode: SwapMode
) -> None:
    before = await swap(engine, models[0])
    asked = await in_flight(engine, [request(max_new_tokens=400, temperature=0)])
    trainer, version = GlooTrainer(tensors_of(models[1])), next(versions)
    incoming = trainer.incoming()
    if mode == "abort":
        await engine.link(incoming, asyncio.Event())

    receiving = asyncio.create_task(engine.receive(version, incoming, mode, None, asyncio.Event()))
    ((completion,),) = await asked
    linked_before_the_end = trainer.linked.is_set()
    await receiving

    assert [span[0] for span in completion.version_spans] == [before if mode == "wait" else version]
    assert linked_before_the_end == (mode == "abort")
    assert await serves(engine, reference(models[1]))
    await located(engine, models[1])


async def test_a_round_that_is_over_before_completions_have_ended_touches_nothing(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference]
) -> None:
    before = await swap(engine, models[0])
    asked = await in_flight(engine, [request(max_new_tokens=100, temperature=0)])
    over, trainer = asyncio.Event(), GlooTrainer(tensors_of(models[1]))

    receiving = asyncio.create_task(engine.receive(next(versions), trainer.incoming(), "wait", None, over))
    await settled()
    over.set()

    with pytest.raises((RoundMissedError, SwapFailedError), match="it was over before"):
        await receiving
    await asked
    assert not trainer.linked.is_set()
    assert engine.policy_version == before
    assert await serves(engine, reference(models[0]))


async def test_nothing_is_touched_once_the_round_is_over_or_by_tensors_of_another_model(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference]
) -> None:
    await swap(engine, models[0])
    over = asyncio.Event()
    over.set()
    other = tensors_of(models[1])
    name = next(name for name in other if name.endswith("q_proj.weight"))
    other[name] = torch.zeros(3, 3)

    with pytest.raises(RoundMissedError, match="over"):
        await receive(engine, GlooTrainer(tensors_of(models[1])), over=over)
    with pytest.raises(CheckpointRefusedError, match="has shape"):
        await receive(engine, GlooTrainer(other))

    assert await serves(engine, reference(models[0]))


async def test_a_trainer_that_is_not_there_is_a_round_missed(engine: VllmEngine, models: list[Path]) -> None:
    sent = Outgoing(tensors=tensors_of(models[1]), backend="gloo").sent
    incoming = Incoming(backend="gloo", sent=sent, meeting=b"127.0.0.1:1", first_rank=1, world_size=2, timeout_s=1.0)

    with pytest.raises(RoundMissedError):
        await engine.link(incoming, asyncio.Event())
