"""A checkpoint that was prepared is loaded from memory, as one that was not is loaded from its files."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rollstream.producer.demo.tiny_model import write_model
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.engines.vllm.staging import room, shared_weights
from rollstream.worker.engines.vllm.staging.layout import Layout, read_layout
from rollstream.worker.engines.vllm.staging.staging import Staging
from rollstream.worker.errors import CheckpointRefusedError, NotStagedError, SwapFailedError
from rollstream.worker.requests import Adapter
from rollstream.worker.weights import checkpoint
from tests.real_engine.weight_swap.steps import LONG_PROMPT, PROMPT, greedy, in_flight, request, serves, swap
from tests.support.engine.transformers_reference import Reference
from tests.support.weights.versions import shard

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="package")]


async def prepare(engine: VllmEngine, folder: Path) -> checkpoint.Content:
    content = checkpoint.read_content(folder)
    await engine.prepare(folder, content)
    return content


def staging_of(engine: VllmEngine) -> Staging:
    assert engine._swapper is not None
    return engine._swapper._staging


def write_over(engine: VllmEngine, folder: Path) -> None:
    """Put the weights of another checkpoint of the same shape into the memory of the one that is staged."""
    weights = staging_of(engine)._weights
    assert weights is not None
    held = (folder / "model.safetensors").read_bytes()
    for tensor in read_layout(folder, checkpoint.read_content(folder)).tensors:
        os.pwrite(weights.memory.descriptor, held[tensor.start : tensor.start + tensor.nbytes], tensor.offset)


async def processes_hold(engine: VllmEngine) -> list[Any]:
    """What each of vLLM's processes says of what is staged."""
    return list(await engine._llm.collective_rpc("rollstream_staged"))


async def test_a_prepared_swap_serves_what_an_unprepared_one_serves_and_adapters_stay(
    engine: VllmEngine,
    models: list[Path],
    reference: Callable[..., Reference],
    adapters: dict[str, Adapter],
) -> None:
    version = await swap(engine, models[0])
    answers = await in_flight(engine, [request(LONG_PROMPT, num_return_sequences=2, max_new_tokens=200)])

    await prepare(engine, models[1])
    assert await processes_hold(engine) == [""]
    assert engine.policy_version == version
    after = await swap(engine, models[1])

    for found in (await answers)[0]:
        assert [number for number, _ in found.version_spans] == [version, after]
    assert await serves(engine, reference(models[1]), LONG_PROMPT)
    adapted = await greedy(engine, PROMPT, adapters["math@1"])
    expected = reference(models[1], "math@1").logprobs(PROMPT, adapted.token_ids.tolist())
    assert adapted.logprobs == pytest.approx(expected, abs=1e-4)
    assert await processes_hold(engine) == ["nothing is staged"]
    await swap(engine, models[0])
    assert await serves(engine, reference(models[0]))


async def test_a_prepared_swap_reads_memory_and_another_swap_reads_its_files(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference]
) -> None:
    await prepare(engine, models[1])
    write_over(engine, models[2])
    await swap(engine, models[1])
    assert await serves(engine, reference(models[2]))

    await prepare(engine, models[3])
    write_over(engine, models[2])
    await swap(engine, models[1])
    assert await serves(engine, reference(models[1]))


async def test_preparing_another_checkpoint_forgets_the_first(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference]
) -> None:
    first = await prepare(engine, models[1])
    second = await prepare(engine, models[2])

    assert not staging_of(engine).has(models[1], first)
    assert staging_of(engine).has(models[2], second)
    assert len(shared_weights._in_use) == 1
    await swap(engine, models[1])
    assert await serves(engine, reference(models[1]))
    assert len(shared_weights._in_use) == 0


async def test_files_that_change_while_they_are_read_into_memory_are_refused(
    engine: VllmEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(tmp_path / "moving", seed=34, tied=True, tokenizer=False)
    content = checkpoint.read_content(folder)

    def read_then_change(where: Path, held: checkpoint.Content) -> Layout:
        layout = read_layout(where, held)
        with (folder / "model.safetensors").open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"\x7f")
        return layout

    monkeypatch.setattr(shared_weights, "read_layout", read_then_change)

    with pytest.raises(CheckpointRefusedError, match="changed while they were read into memory"):
        await engine.prepare(folder, content)

    assert await processes_hold(engine) == ["nothing is staged"]


@pytest.mark.parametrize("harm", ["gone", "changed"])
async def test_files_that_change_after_they_were_prepared_leave_the_old_weights(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference], tmp_path: Path, harm: str
) -> None:
    version = await swap(engine, models[0])
    folder = write_model(tmp_path / "step", seed=34, tied=True, tokenizer=False)
    content = await prepare(engine, folder)
    shutil.rmtree(folder)
    if harm == "changed":
        write_model(folder, seed=35, tied=True, tokenizer=False)

    with pytest.raises((SwapFailedError, CheckpointRefusedError)):
        await engine.load_checkpoint(99, folder, "keep", content)

    assert engine.policy_version == version
    assert await serves(engine, reference(models[0]))
    assert await processes_hold(engine) == ["nothing is staged"]


async def test_without_memory_for_it_a_checkpoint_is_not_prepared_and_a_swap_reads_its_files(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "available_bytes", lambda: 2**20)

    with pytest.raises(NotStagedError, match=r"takes \d+ bytes of memory"):
        await prepare(engine, models[1])

    await swap(engine, models[1])
    assert await serves(engine, reference(models[1]))


async def test_a_staged_load_that_fails_half_way_leaves_the_old_weights(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = await swap(engine, models[0])

    read = shared_weights.SharedWeights.read

    async def read_but_one(weights: shared_weights.SharedWeights) -> None:
        await read(weights)
        lost = [
            replace(one, offset=weights.layout.nbytes) if one.name.endswith("1.mlp.up_proj.weight") else one
            for one in weights.layout.tensors
        ]
        weights.layout = replace(weights.layout, tensors=tuple(lost))

    monkeypatch.setattr(shared_weights.SharedWeights, "read", read_but_one)
    content = await prepare(engine, models[1])
    answers = await in_flight(engine, [request(max_new_tokens=200)])

    with pytest.raises(SwapFailedError, match=f"still serving {version}"):
        await engine.load_checkpoint(99, models[1], "keep", content)

    assert (await answers)[0][0].version_spans == ((version, 200),)
    assert await serves(engine, reference(models[0]))
    monkeypatch.undo()
    await swap(engine, models[1])
    assert await serves(engine, reference(models[1]))


async def test_a_swap_to_another_checkpoint_ends_a_preparation_that_still_reads(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def slowly(folder: Path, content: checkpoint.Content) -> Layout:
        loop.call_soon_threadsafe(reading.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(20)
        return read_layout(folder, content)

    monkeypatch.setattr(shared_weights, "read_layout", slowly)
    preparing = asyncio.create_task(prepare(engine, models[1]))
    await asyncio.wait_for(reading.wait(), 20)

    await swap(engine, models[2])
    go_on.set()

    with pytest.raises(NotStagedError, match="another checkpoint is wanted"):
        await preparing
    assert await serves(engine, reference(models[2]))


async def test_a_checkpoint_of_several_files_is_prepared_too(
    engine: VllmEngine, reference: Callable[..., Reference], tmp_path: Path
) -> None:
    folder = shard(write_model(tmp_path / "sharded", seed=36, tied=True, tokenizer=False))

    await prepare(engine, folder)
    await swap(engine, folder)

    assert await serves(engine, reference(folder))


async def test_a_checkpoint_of_another_model_is_refused_before_it_is_read(engine: VllmEngine, tmp_path: Path) -> None:
    other = write_model(tmp_path / "untied", seed=37, tokenizer=False)

    with pytest.raises(CheckpointRefusedError):
        await prepare(engine, other)

    assert len(shared_weights._in_use) == 0
