"""vLLM's processes see the tensors of the shared memory, and say what they cannot map."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rollstream.producer.demo.tiny_model import write_model
from rollstream.worker.engines.vllm.staging.mapped import MappedWeights
from rollstream.worker.engines.vllm.staging.shared_weights import SharedWeights, shared
from rollstream.worker.engines.vllm.staging.staged_weights import StagedWeights
from rollstream.worker.weights import checkpoint

DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16, torch.bfloat16,
    torch.float32, torch.float64,
]  # fmt: skip


class Process(StagedWeights):
    """A worker of vLLM, of which only this part is there."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def settled(self) -> str:
        until = time.monotonic() + 20
        while (found := self.rollstream_staged()) is None:
            assert time.monotonic() < until
            time.sleep(0.001)
        return found


@pytest.fixture
def process() -> Iterator[Process]:
    one = Process()
    yield one
    one.rollstream_unstage()


async def staged(folder: Path) -> tuple[SharedWeights, tuple[Any, ...]]:
    weights = shared(folder, checkpoint.read_content(folder))
    weights.hold()
    await weights.read()
    tensors = [(one.name, one.dtype, one.shape, one.offset) for one in weights.layout.tensors]
    return weights, (weights.memory.path, weights.memory.number, weights.layout.regions, tensors)


async def test_tensors_of_every_kind_are_those_of_the_files(tmp_path: Path, process: Process) -> None:
    folder = write_model(tmp_path / "step", tokenizer=False)
    held = {f"model.{dtype}": torch.randn(3, 5).mul(40).to(dtype) for dtype in DTYPES}
    held |= {"model.scalar": torch.tensor(2.5), "model.empty": torch.empty(0, 4), "model.odd": torch.ones(7).byte()}
    save_file(held, folder / "model.safetensors")
    weights, arguments = await staged(folder)

    process.rollstream_stage(*arguments)
    assert process.settled() == ""
    weights.drop()
    found = dict(process.rollstream_staged_tensors())

    expected = load_file(folder / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


async def test_kinds_that_torch_cannot_map_are_named(tmp_path: Path, process: Process) -> None:
    folder = write_model(tmp_path / "step", tokenizer=False)
    weights, (path, number, regions, tensors) = await staged(folder)

    process.rollstream_stage(path, number, regions, [("model.a", "F8_E4M3", (1,), 0), *tensors])

    assert process.settled() == "tensors of the kind F8_E4M3 cannot be staged"
    with pytest.raises(RuntimeError, match="F8_E4M3"):
        list(process.rollstream_staged_tensors())
    weights.drop()


def test_memory_that_is_gone_is_a_problem_and_no_crash(process: Process) -> None:
    process.rollstream_stage("/proc/self/fd/123456", 1, [], [])

    assert process.settled().startswith("FileNotFoundError")


def test_nothing_is_staged_before_and_after(process: Process) -> None:
    assert process.rollstream_staged() == "nothing is staged"
    with pytest.raises(RuntimeError, match="nothing is staged"):
        process.rollstream_staged_tensors()


async def test_memory_that_stays_pinned_is_not_mapped_again(
    tmp_path: Path, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MappedWeights, "pinned", True)  # as on a GPU
    steps = [write_model(tmp_path / f"step-{seed}", seed=seed, tokenizer=False) for seed in range(2)]
    weights, arguments = await staged(steps[0])
    process.rollstream_stage(*arguments)
    assert process.settled() == ""
    first = process.rollstream_mapped
    assert process.rollstream_unstage()
    assert process.rollstream_staged() == "nothing is staged"
    weights.drop(keep=True)

    following, arguments = await staged(steps[1])
    process.rollstream_stage(*arguments)

    assert process.rollstream_mapped is first
    found = dict(process.rollstream_staged_tensors())
    for name, tensor in load_file(steps[1] / "model.safetensors").items():
        assert torch.equal(found[name], tensor)
    following.drop()


async def test_pinned_memory_of_another_number_is_let_go(
    tmp_path: Path, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MappedWeights, "pinned", True)
    weights, arguments = await staged(write_model(tmp_path / "step", tokenizer=False))
    process.rollstream_stage(*arguments)
    first = process.rollstream_mapped
    process.rollstream_unstage()

    path, _, regions, tensors = arguments
    process.rollstream_stage(path, -1, regions, tensors)

    assert process.rollstream_mapped is not first
    assert process.rollstream_spare is None
    assert process.settled() == ""
    weights.drop()
