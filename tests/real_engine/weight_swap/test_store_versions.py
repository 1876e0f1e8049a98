"""Weights that came through the store, whole or as deltas, are those that vLLM samples from."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from rollstream.schemas import Keys, WeightsManifest
from rollstream.transport.weights import WeightStore, store_of
from rollstream.worker.checkpoints.store_versions import StoreVersions
from rollstream.worker.checkpoints.supply import CheckpointSupply, Prepared, Wanted
from rollstream.worker.checkpoints.weights_cache import WeightsCache
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.errors import SwapFailedError, VersionRefusedError
from rollstream.worker.weights.checkpoint import digest
from tests.real_engine.weight_swap.steps import (
    LONG_PROMPT,
    harm_after_the_check,
    in_flight,
    remove_all,
    request,
    serves,
    versions,
)
from tests.support.engine.transformers_reference import Reference
from tests.support.weights.weight_versions import Tensors, tensors_of, write

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="package")]


@pytest.fixture
def weights(tmp_path: Path) -> WeightStore:
    (tmp_path / "weights").mkdir()
    return store_of(tmp_path / "weights", Keys("p"))


@asynccontextmanager
async def worker(weights: WeightStore, model: Path, cache: Path) -> AsyncIterator[CheckpointSupply]:
    """The supply of one that booted with `model`."""
    kept = WeightsCache(root=cache, model=model)
    store = StoreVersions(store=weights, cache=kept, model=model)
    supply = CheckpointSupply(folder=None, cache=kept, store=store, timeout_s=60)
    supply.open()
    yield supply
    await supply.close()


async def prepare(supply: CheckpointSupply, manifest: WeightsManifest) -> Prepared:
    return await supply.prepare(
        Wanted(version=manifest.version, location=manifest.name, sha256=manifest.sha256, transport="store")
    )


async def swap(engine: VllmEngine, supply: CheckpointSupply, manifest: WeightsManifest) -> None:
    prepared = await prepare(supply, manifest)
    await engine.load_checkpoint(next(versions), prepared.folder, "keep", prepared.content)
    await supply.serving(prepared)


def half_trained(folder: Path, models: list[Path]) -> Path:
    """The second model with every second tensor of the third."""
    shutil.copytree(models[1], folder)
    before, after = (load_file(model / "model.safetensors") for model in models[1:3])
    mixed = {name: (after if at % 2 else before)[name] for at, name in enumerate(sorted(before))}
    save_file(mixed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


async def test_an_anchor_a_delta_and_going_back_are_sampled_from(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference], weights: WeightStore, tmp_path: Path
) -> None:
    mixed = half_trained(tmp_path / "mixed", models)
    before: Tensors = tensors_of(models[1])
    anchor = await write(weights, 1, before)
    delta = await write(weights, 2, tensors_of(mixed), (anchor, before))
    assert delta.plain_bytes < 0.8 * anchor.plain_bytes

    async with worker(weights, models[0], tmp_path / "cache") as supply:
        await swap(engine, supply, anchor)
        assert await serves(engine, reference(models[1]))
        answers = await in_flight(engine, [request(LONG_PROMPT, max_new_tokens=400)])
        await swap(engine, supply, delta)
        ((found,),) = await answers
        assert len(found.version_spans) == 2, "nothing was in flight"
        assert await serves(engine, reference(mixed))

        await weights.delete([one.name for one in await weights.items()])
        await swap(engine, supply, anchor)
        assert await serves(engine, reference(models[1]))


async def test_a_worker_that_joins_late_samples_from_the_anchor_with_all_its_deltas(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference], weights: WeightStore, tmp_path: Path
) -> None:
    mixed = half_trained(tmp_path / "mixed", models)
    first: Tensors = tensors_of(models[1])
    anchor = await write(weights, 1, first)
    second: Tensors = tensors_of(mixed)
    delta = await write(weights, 2, second, (anchor, first))
    newest = await write(weights, 3, tensors_of(models[2]), (delta, second))

    async with worker(weights, models[0], tmp_path / "cache") as supply:
        await swap(engine, supply, newest)

        assert await serves(engine, reference(models[2]))
        assert await serves(engine, reference(models[2]), LONG_PROMPT)


async def test_a_refused_delta_leaves_vllm_sampling_from_the_old_weights(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference], weights: WeightStore, tmp_path: Path
) -> None:
    before: Tensors = tensors_of(models[1])
    anchor = await write(weights, 1, before)
    delta = await write(weights, 2, tensors_of(models[2]), (anchor, before))
    await weights.delete([delta.chunks[-1].sha256])

    async with worker(weights, models[0], tmp_path / "cache") as supply:
        await swap(engine, supply, anchor)
        with pytest.raises(VersionRefusedError, match=delta.chunks[-1].sha256):
            await prepare(supply, delta)

        assert await serves(engine, reference(models[1]))


async def test_going_back_after_a_failed_load_needs_no_folder_of_the_trainers(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for number, model in enumerate(models[1:3], 1):
        shutil.copytree(model, tmp_path / "steps" / f"step-{number}")
    steps, cache = tmp_path / "steps", WeightsCache(root=tmp_path / "cache", model=models[0])
    supply = CheckpointSupply(folder=steps, cache=cache)
    supply.open()
    copies = [
        await supply.prepare(Wanted(version=number, location=f"step-{number}", sha256=digest(steps / f"step-{number}")))
        for number in (1, 2)
    ]
    await engine.load_checkpoint(version := next(versions), copies[0].folder, "keep", copies[0].content)
    shutil.rmtree(steps)
    harm_after_the_check(monkeypatch, remove_all)

    with pytest.raises(SwapFailedError, match=f"still serving {version}"):
        await engine.load_checkpoint(next(versions), copies[1].folder, "keep", copies[1].content)

    assert await serves(engine, reference(models[1]))
    await supply.close()
