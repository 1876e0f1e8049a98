"""A checkpoint that cannot be served leaves the old weights serving, or ends an engine that has neither."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from rollstream.producer.demo.tiny_model import write_model
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.errors import CheckpointRefusedError, EngineDiedError, SwapFailedError
from rollstream.worker.requests import Adapter
from rollstream.worker.weights import checkpoint
from tests.real_engine.weight_swap.probes import Proof
from tests.real_engine.weight_swap.steps import (
    LONG_PROMPT,
    PROMPT,
    greedy,
    harm_after_the_check,
    in_flight,
    remove_all,
    request,
    scribble,
    serves,
    settings,
    swap,
    write_again,
)
from tests.support.engine.transformers_reference import Reference
from tests.support.weights.harmful_reload import harm_next, with_harm
from tests.support.weights.versions import shard

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="package")]


def drop_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors")


def transpose_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"] = weights["model.layers.1.mlp.up_proj.weight"].T.contiguous()
    save_file(weights, folder / "model.safetensors")


def truncate(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 10_000)


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (drop_tensor, r"tensor model\.layers\.1\.mlp\.up_proj\.weight is missing"),
        (transpose_tensor, r"model\.layers\.1\.mlp\.up_proj\.weight has shape \[128, 256\].*has \[256, 128\]"),
        (truncate, r"model\.safetensors: is truncated"),
        (scribble, r"model\.safetensors: is truncated or no safetensors file"),
    ],
)
async def test_a_broken_checkpoint_is_refused_by_name_and_the_old_weights_serve_on(
    engine: VllmEngine,
    models: list[Path],
    reference: Callable[..., Reference],
    tmp_path: Path,
    harm: Callable[[Path], None],
    says: str,
) -> None:
    version = await swap(engine, models[0])
    broken = write_model(tmp_path / "broken", seed=31, tied=True, tokenizer=False)
    harm(broken)
    answers = await in_flight(engine, [request(max_new_tokens=100)])

    with pytest.raises(CheckpointRefusedError, match=says):
        await engine.load_checkpoint(99, broken, "keep")

    assert (await answers)[0][0].version_spans == ((version, 100),)
    assert await serves(engine, reference(models[0]))


def remove_shard(folder: Path) -> None:
    """Not every vLLM minds."""
    (folder / "model-00002-of-00002.safetensors").unlink()


def scribble_shard(folder: Path) -> None:
    """vLLM fails half way, with layers half loaded."""
    (folder / "model-00002-of-00002.safetensors").write_bytes(os.urandom(10_000))


@pytest.mark.parametrize("harm", [remove_shard, scribble_shard, remove_all, write_again])
async def test_a_checkpoint_that_goes_bad_after_its_check_leaves_the_old_weights(
    engine: VllmEngine,
    models: list[Path],
    reference: Callable[..., Reference],
    adapters: dict[str, Adapter],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[Path], None],
) -> None:
    version = await swap(engine, models[1])
    folder = shard(write_model(tmp_path / "doomed", seed=32, tied=True, tokenizer=False))
    harm_after_the_check(monkeypatch, harm)
    answers = await in_flight(engine, [request(LONG_PROMPT, num_return_sequences=2, seed=5, max_new_tokens=200)])

    with pytest.raises(SwapFailedError, match=f"still serving {version}"):
        await engine.load_checkpoint(99, folder, "keep")

    assert engine.policy_version == version
    for found in (await answers)[0]:
        assert found.version_spans == ((version, 200),)
        expected = reference(models[1]).logprobs(LONG_PROMPT, found.token_ids.tolist())
        assert found.logprobs == pytest.approx(expected, abs=1e-4)
    assert await serves(engine, reference(models[1]), LONG_PROMPT)
    adapted = await greedy(engine, PROMPT, adapters["math@1"])
    expected = reference(models[1], "math@1").logprobs(PROMPT, adapted.token_ids.tolist())
    assert adapted.logprobs == pytest.approx(expected, abs=1e-4)
    monkeypatch.undo()
    await swap(engine, models[2])
    assert await serves(engine, reference(models[2]))


async def test_an_untied_model_swaps_too_and_ends_when_neither_new_nor_old_weights_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, bad = (write_model(tmp_path / f"step-{seed}", seed=seed, tokenizer=False) for seed in range(3))
    references = {model: Reference(model) for model in (old, new)}
    engine = VllmEngine(settings(old))
    await engine.start()
    try:
        assert await serves(engine, references[old])
        for model in (new, old, new):
            await swap(engine, model)
            assert await serves(engine, references[model], LONG_PROMPT)
        answers = await in_flight(engine, [request(max_new_tokens=400)])

        def same_then_scribble(folder: Path, content: checkpoint.Content) -> bool:
            same = unchanged(folder, content)
            scribble(folder)
            return same

        unchanged = checkpoint.unchanged
        harm_after_the_check(monkeypatch, scribble)
        monkeypatch.setattr(checkpoint, "unchanged", same_then_scribble)

        with pytest.raises(EngineDiedError, match="neither new weights nor those of version"):
            await engine.load_checkpoint(99, bad, "keep")

        with pytest.raises(EngineDiedError):
            await answers
        with pytest.raises(EngineDiedError):
            await engine.check()
    finally:
        await engine.close()
    assert not engine._processes.pids


async def test_boot_weights_are_served_as_version_0_and_changed_files_are_not_gone_back_to(
    models: list[Path], reference: Callable[..., Reference], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = VllmEngine(settings(models[0]))  # of its own: it would sample with weights that no version names
    await engine.start()
    try:
        assert engine.policy_version == 0
        assert await serves(engine, reference(models[0]))
        assert (await greedy(engine)).version_spans == ((0, 24),)

        folder = shutil.copytree(models[0], tmp_path / "served")
        version = await swap(engine, folder)
        write_again(folder)
        harm_after_the_check(monkeypatch, remove_all)

        with pytest.raises(EngineDiedError, match=f"the files of version {version} changed"):
            await engine.load_checkpoint(99, shutil.copytree(models[1], tmp_path / "doomed"), "keep")

        with pytest.raises(EngineDiedError):
            await greedy(engine)
    finally:
        await engine.close()


@pytest.mark.parametrize(
    ("proven", "fails"),
    [
        (False, "its proof"),
        pytest.param(True, "its proof", marks=pytest.mark.large),
        pytest.param(True, "its load", marks=pytest.mark.large),
    ],
)
async def test_old_weights_that_are_no_longer_what_they_were_end_the_engine(
    models: list[Path],
    reference: Callable[..., Reference],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    proven: bool,
    fails: str,
) -> None:
    with_harm(monkeypatch)
    engine = VllmEngine(settings(models[0]))  # of its own: it ends
    await engine.start()
    try:
        if proven:
            await engine.load_checkpoint(1, models[1], "keep", None, Proof(reference(models[1])))
        answer = await in_flight(engine, [request(max_new_tokens=400)])
        await harm_next(engine, "for ever")
        if fails == "its load":
            harm_after_the_check(monkeypatch, remove_all)

        folder, prove = shutil.copytree(models[2], tmp_path / "two"), Proof(reference(models[2]))
        with pytest.raises(EngineDiedError, match=r"version 2 failed .*before it are gone: their log-probs are .* off"):
            await engine.load_checkpoint(2, folder, "keep", None, prove)

        with pytest.raises(EngineDiedError):
            await answer
        with pytest.raises(EngineDiedError):
            await greedy(engine)
    finally:
        await engine.close()
