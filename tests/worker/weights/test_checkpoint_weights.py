"""Weights that vLLM would leave out, read in another's place or take as they are broken: refused by trainer and worker.

What every loader skips or computes itself is no reason to refuse.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rollstream import CheckpointError
from rollstream.producer.demo.tiny_model import write_model
from rollstream.producer.policies.checkpoint_files import CheckpointFolder
from rollstream.worker.errors import CheckpointRefusedError
from rollstream.worker.weights.checkpoint import Booted, check, digest, read_content
from tests.support.weights.versions import shard

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = "model-00002-of-00002.safetensors"
HEAD, EMBEDDING, NORM = "lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def new(models: Path, tmp_path: Path) -> Path:
    """Another version of the booted model."""
    return Path(shutil.copytree(models / "step-1", tmp_path / "step-7"))


@pytest.fixture(scope="module")
def tied_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tied")
    for seed in (1, 2):
        write_model(root / f"step-{seed}", seed=seed, tied=True, tokenizer=False)
    return root


@pytest.fixture
def tied(tied_models: Path, tmp_path: Path) -> tuple[Booted, Path]:
    """A model with tied embeddings, and another version of it."""
    return Booted(folder=tied_models / "step-1"), Path(shutil.copytree(tied_models / "step-2", tmp_path / "step-8"))


def change(folder: Path, by: Change, file: str = WEIGHTS) -> None:
    weights = load_file(folder / file)
    by(weights)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / file, {"format": "pt"})


def change_index(folder: Path, by: Change) -> None:
    index = json.loads((folder / INDEX).read_text())
    by(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def refused_by_both(folder: Path, booted: Booted | None, says: str) -> None:
    with pytest.raises(CheckpointRefusedError, match=says):
        check(folder, booted)
    with pytest.raises(CheckpointError, match=says):
        CheckpointFolder(folder)


def taken_by_both(folder: Path, booted: Booted) -> None:
    check(folder, booted)
    assert CheckpointFolder(folder).digest() == digest(folder)


def whole_file_beside_an_index(folder: Path) -> None:
    trained = shutil.copy(folder / WEIGHTS, folder.parent / "trained")
    shard(folder)
    shutil.copy(trained, folder / WEIGHTS)


def left_over_shard(folder: Path) -> None:
    """A save into two files over one into three."""
    shard(folder)
    shutil.copy(folder / SHARD, folder / "model-00003-of-00003.safetensors")


def shard_without_a_tensor_in_the_index(folder: Path) -> None:
    change_index(shard(folder), lambda mapped: mapped.pop(NORM))


def another_index(folder: Path) -> None:
    mapped = dict.fromkeys(load_file(folder / WEIGHTS), WEIGHTS)
    (folder / "model.fp32.safetensors.index.json").write_text(json.dumps({"weight_map": mapped}))


def hidden_half(folder: Path) -> None:
    """A hidden file is not loaded, though all tensors are there."""
    shard(folder)
    (folder / INDEX).unlink()
    (folder / SHARD).rename(folder / ".rest.safetensors")
    (folder / "model-00001-of-00002.safetensors").rename(folder / WEIGHTS)


def file(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(b"x")


def copy(name: str) -> Callable[[Path], object]:
    return lambda folder: shutil.copy(folder / WEIGHTS, folder / name)


UNREAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "a left-over index": (whole_file_beside_an_index, f"{WEIGHTS}.* not named by {INDEX}.*an earlier save"),
    "a left-over shard": (left_over_shard, f"model-00003-of-00003.safetensors.* not named by {INDEX}"),
    "a tensor that the index does not name": (shard_without_a_tensor_in_the_index, f"{NORM} .*is not in the index"),
    "an index of another name": (another_index, "model.fp32.safetensors.index.json.* not look at"),
    "half of it hidden": (hidden_half, ".rest.safetensors.* because of its name"),
    "another spelling": (copy("model.SAFETENSORS"), "model.SAFETENSORS.* because of its name"),
    "Mistral's own format": (copy("consolidated.safetensors"), "consolidated.safetensors.*in place of the other files"),
    "another precision": (copy("model.fp16.safetensors"), "tensor .* is (also )?in "),
    "an adapter": (copy("adapter_model.safetensors"), "adapter_model.safetensors.*holds an adapter"),
    "PyTorch's format": (file("pytorch_model.bin"), "pytorch_model.bin.* may hold weights"),
    "one shard of it": (file("pytorch_model-00001-of-00002.bin"), "pytorch_model-00001-of-00002.bin.* may hold"),
    "a rank's weights": (file("model_world_size_8_rank_0.pt"), "model_world_size_8_rank_0.pt.* may hold weights"),
    "Meta's format": (file("consolidated.00.pth"), "consolidated.00.pth.* may hold weights"),
    "llama.cpp's": (file("step-7-Q8_0.gguf"), "step-7-Q8_0.gguf.* may hold weights"),
}


@pytest.mark.parametrize("name", UNREAD)
def test_weights_that_vllm_would_not_read_are_refused_by_name(name: str, tiny_model: Path, new: Path) -> None:
    harm, says = UNREAD[name]
    harm(new)

    refused_by_both(new, Booted(folder=tiny_model), says)


@pytest.mark.parametrize(
    "name",
    ["training_args.bin", "optimizer.pt", "optimizer_1.bin", "scheduler.pt", "scaler.pt", "rng_state_0.pth",
     "random_states_0.pkl", "tokenizer.model", "README.md", "generation_config.json", "trainer_state.json",
     "train_state.pt", "metrics.npz"],
)  # fmt: skip
def test_what_a_trainer_keeps_beside_the_weights_is_taken(name: str, tiny_model: Path, new: Path) -> None:
    (new / name).write_bytes(b"x")

    taken_by_both(new, Booted(folder=tiny_model))


def test_an_index_that_names_the_one_file_is_taken(tiny_model: Path, new: Path) -> None:
    mapped = dict.fromkeys(load_file(new / WEIGHTS), WEIGHTS)
    (new / INDEX).write_text(json.dumps({"weight_map": mapped}))

    taken_by_both(new, Booted(folder=tiny_model))


def test_a_model_to_boot_with_may_lie_beside_other_formats(tiny_model: Path, new: Path, tmp_path: Path) -> None:
    hub = shard(Path(shutil.copytree(tiny_model, tmp_path / "hub")))
    shutil.copy(tiny_model / WEIGHTS, hub / "consolidated.safetensors")
    (hub / "pytorch_model.bin").write_bytes(b"x")

    check(new, Booted(folder=hub))


WRAPPERS: dict[str, tuple[str, str]] = {
    "torch.compile": ("_orig_mod.{}", "_orig_mod.* has a name of torch.compile: save the model that is inside"),
    "FSDP": ("model._fsdp_wrapped_module.{}", "a name of FSDP"),
    "DDP": ("module.{}", "begin with 'module.'"),
    "PEFT, not merged": ("base_model.model.{}.lora_A.weight", "belongs to an adapter: merge it"),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_names_of_a_wrapper_are_refused_with_what_to_do(wrapper: str, tiny_model: Path, new: Path) -> None:
    pattern, says = WRAPPERS[wrapper]
    weights = load_file(new / WEIGHTS)
    save_file({pattern.format(name): tensor for name, tensor in weights.items()}, new / WEIGHTS)

    refused_by_both(new, Booted(folder=tiny_model), says)


def test_a_wrapper_that_only_the_worker_can_know_of_is_named(tiny_model: Path, new: Path) -> None:
    weights = load_file(new / WEIGHTS)
    save_file({f"pretrained_model.{name}": tensor for name, tensor in weights.items()}, new / WEIGHTS)

    with pytest.raises(CheckpointRefusedError, match=f"calls it pretrained_model.{HEAD}: save the model .* inside"):
        check(new, Booted(folder=tiny_model))


COMPUTED = {
    "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16),
    "model.layers.1.self_attn.rotary_emb.cos_cached": torch.full((1, 4, 8), torch.nan),
    "transformer.h.0.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.uint8),
    "transformer.h.0.attn.masked_bias": torch.tensor(-1e4),
}


@pytest.mark.parametrize("where", ["booted", "new", "both"])
@pytest.mark.parametrize("sharded", [False, True])
def test_buffers_that_every_loader_computes_may_be_there_or_not(
    where: str, sharded: bool, tiny_model: Path, new: Path, tmp_path: Path
) -> None:
    booted = Path(shutil.copytree(tiny_model, tmp_path / "booted"))
    for folder, name in ((booted, "booted"), (new, "new")):
        if where in (name, "both"):
            change(folder, lambda weights: weights.update(COMPUTED))
        if sharded:
            shard(folder)

    taken_by_both(new, Booted(folder=booted))
    assert read_content(new).spoilt is None


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.rotary_emb.scale", "model.layers.0.attn.bias", "inv_freqs"])
def test_what_only_looks_like_a_computed_buffer_is_refused(name: str, tiny_model: Path, new: Path) -> None:
    change(new, lambda weights: weights.update({name: torch.ones(8)}))

    with pytest.raises(CheckpointRefusedError, match=f"has no tensor {name}"):
        check(new, Booted(folder=tiny_model))


@pytest.mark.parametrize(
    ("kind", "prefix"), [("gpt2", "transformer."), ("bloom", "transformer."), ("opt", "model."), ("qwen2", None)]
)
def test_a_prefix_that_old_checkpoints_have_not_may_be_there_or_not(
    kind: str, prefix: str | None, tiny_model: Path, new: Path, tmp_path: Path
) -> None:
    hub = Path(shutil.copytree(tiny_model, tmp_path / "hub"))
    weights = load_file(new / WEIGHTS)
    for folder, before in ((hub, ""), (new, prefix or "transformer.")):
        named = {f"{'' if name == HEAD else before}layers.{name}": tensor for name, tensor in weights.items()}
        save_file(named, folder / WEIGHTS)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "model_type": kind}))

    if prefix is None:
        with pytest.raises(CheckpointRefusedError, match="is missing"):
            check(new, Booted(folder=hub))
    else:
        taken_by_both(new, Booted(folder=hub))


@pytest.mark.parametrize("sharded", [False, True])
def test_a_tied_head_that_differs_from_the_embedding_is_refused(sharded: bool, tied: tuple[Booted, Path]) -> None:
    booted, new = tied
    change(new, lambda weights: weights.update({HEAD: weights[EMBEDDING].clone()}))
    if sharded:
        shard(new)
    taken_by_both(new, booted)
    file = next(name for name in new.glob("*.safetensors") if HEAD in load_file(name)).name

    change(new, lambda weights: weights[HEAD][-1, -1].add_(0.001), file)

    refused_by_both(new, booted, f"tied, so vLLM would ignore {HEAD}, which differs from {EMBEDDING}")


def test_a_tied_head_of_another_dtype_is_refused(tied: tuple[Booted, Path]) -> None:
    booted, new = tied
    change(new, lambda weights: weights.update({HEAD: weights[EMBEDDING].half()}))

    refused_by_both(new, booted, f"{HEAD}, which is there, but no embedding of its shape and dtype")


def test_whether_the_engine_tied_its_head_counts_whatever_the_config_says(
    tied_models: Path, tied: tuple[Booted, Path], tmp_path: Path
) -> None:
    """It unties one of another content that it booted with, and needs one from then on."""
    folder = Path(shutil.copytree(tied_models / "step-1", tmp_path / "booted"))
    change(folder, lambda weights: weights.update({HEAD: weights[EMBEDDING] * 2}))
    booted = Booted(folder=folder, tied=False)
    with pytest.raises(CheckpointRefusedError, match=f"tensor {HEAD} is missing"):
        check(tied[1], booted)
    change(tied[1], lambda weights: weights.update({HEAD: weights[EMBEDDING] * 2}))
    with pytest.raises(CheckpointRefusedError, match="differs from"):
        check(tied[1], booted)  # the trainer may have used either
    config = json.loads((tied[1] / "config.json").read_text())

    (tied[1] / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))

    check(tied[1], booted)


@pytest.mark.parametrize("engine_tied", [False, True])
def test_the_engine_tells_whether_embeddings_are_tied_where_no_config_does(
    engine_tied: bool, tied: tuple[Booted, Path], tmp_path: Path
) -> None:
    new = tied[1]
    config = json.loads((new / "config.json").read_text())
    del config["tie_word_embeddings"]
    (new / "config.json").write_text(json.dumps(config))
    change(new, lambda weights: weights.update({HEAD: weights[EMBEDDING] * 2}))
    booted = Booted(folder=Path(shutil.copytree(new, tmp_path / "booted")), tied=engine_tied)

    if engine_tied:
        with pytest.raises(CheckpointRefusedError, match="differs from"):
            check(new, booted)
    else:
        check(new, booted)
