"""What an engine booted with is remembered: its folder may go, or be written over, before the first swap."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rollstream.producer.demo.tiny_model import write_adapter, write_model
from rollstream.worker.adapters.folder import AdapterFolder
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.errors import CheckpointRefusedError, DataError
from rollstream.worker.weights.checkpoint import Booted, check


@pytest.fixture
def boot(tmp_path: Path) -> Path:
    return write_model(tmp_path / "boot", tokenizer=False)


@pytest.fixture
def new(tmp_path: Path) -> Path:
    return write_model(tmp_path / "step-7", seed=7, tokenizer=False)


async def test_a_swap_does_not_need_the_folder_that_the_engine_booted_with(boot: Path, new: Path) -> None:
    engine = StubEngine(WorkerSettings(policy="test", engine="stub", model=boot))
    await engine.start()
    shutil.rmtree(boot)

    await engine.load_checkpoint(7, new, "keep")

    assert engine.policy_version == 7


def test_what_is_written_over_the_booted_model_is_not_what_checkpoints_are_compared_with(
    boot: Path, new: Path, tmp_path: Path
) -> None:
    booted = Booted(folder=boot)
    write_model(boot, vocab_size=300, tokenizer=False)

    check(new, booted)
    with pytest.raises(CheckpointRefusedError, match="vocab_size is 300"):
        check(boot, booted)


@pytest.mark.parametrize("harm", [shutil.rmtree, lambda f: (f / "model.safetensors").unlink()])
def test_a_booted_model_that_cannot_be_read_refuses_every_checkpoint_and_is_named(
    harm: object, boot: Path, new: Path
) -> None:
    assert callable(harm)
    harm(boot)
    booted = Booted(folder=boot)

    for _ in range(2):
        with pytest.raises(CheckpointRefusedError, match=r"checkpoint boot: .*the worker booted with this model"):
            check(new, booted)


def test_adapters_are_still_compared_with_a_booted_model_that_is_gone(boot: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path, "math@1", model=boot, seed=1)
    weights = tmp_path / "math@1" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes().replace(b"layers.1.", b"layers.7."))
    directory = AdapterFolder(root=tmp_path, max_rank=16, model=boot)
    shutil.rmtree(boot)

    with pytest.raises(DataError, match="names a layer that the worker's model does not have"):
        directory.find("math@1")
