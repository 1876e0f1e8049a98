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
    return weights, (weights.path, weights.layout.regions, tensors)


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
    weights, (path, regions, tensors) = await staged(folder)

    process.rollstream_stage(path, regions, [("model.a", "F8_E4M3", (1,), 0), *tensors])

    assert process.settled() == "ValueError: tensors of the kind F8_E4M3 cannot be staged"
    with pytest.raises(RuntimeError, match="F8_E4M3"):
        list(process.rollstream_staged_tensors())
    weights.drop()


def test_memory_that_is_gone_is_a_problem_and_no_crash(process: Process) -> None:
    process.rollstream_stage("/proc/self/fd/123456", [], [])

    assert process.settled().startswith("FileNotFoundError")


def test_nothing_is_staged_before_and_after(process: Process) -> None:
    assert process.rollstream_staged() == "nothing is staged"
    with pytest.raises(RuntimeError, match="nothing is staged"):
        process.rollstream_staged_tensors()
