"""A checkpoint is read into memory once, however many engines need it, and the memory is free when nobody does."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from rollstream.producer.demo.tiny_model import write_model
from rollstream.worker.engines.vllm.staging import memory, room, shared_weights
from rollstream.worker.engines.vllm.staging.layout import Layout, read_layout
from rollstream.worker.engines.vllm.staging.shared_weights import SharedWeights, shared
from rollstream.worker.errors import CheckpointRefusedError, NotStagedError
from rollstream.worker.weights import checkpoint
from tests.support.weights.versions import shard


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("staged") / "step", tokenizer=False)


def open_memories() -> int:
    """How many files without a name this process has open for weights."""
    found = (str(one.readlink()) for one in Path("/proc/self/fd").iterdir() if one.is_symlink())
    return sum("rollstream-weights" in name for name in found)


def same_bytes(weights: SharedWeights, folder: Path) -> bool:
    held = {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}
    with open(weights.memory.path, "rb") as memory:  # noqa: PTH123 - as another process opens it
        for tensor in weights.layout.tensors:
            memory.seek(tensor.offset)
            if memory.read(tensor.nbytes) != held[tensor.file][tensor.start : tensor.start + tensor.nbytes]:
                return False
    return bool(weights.layout.tensors)


async def test_two_replicas_share_one_reading_and_the_last_one_frees_it(step: Path) -> None:
    content = checkpoint.read_content(step)
    one, other = shared(step, content), shared(step, content)
    one.hold()
    other.hold()
    await asyncio.gather(one.read(), other.read())

    assert one is other
    assert open_memories() == 1
    one.drop()
    assert same_bytes(other, step)
    other.drop()
    assert open_memories() == 0
    assert shared(step, content) is not one


async def test_memory_that_is_kept_is_used_again_for_another_checkpoint_of_the_model(
    step: Path, tmp_path: Path
) -> None:
    following = shard(write_model(tmp_path / "next", seed=1, tokenizer=False))
    first, second = (shared(folder, checkpoint.read_content(folder)) for folder in (step, following))
    first.hold()
    await first.read()
    number = first.memory.number
    first.drop(keep=True)
    assert open_memories() == 1

    second.hold()
    await second.read()

    assert open_memories() == 1
    assert second.memory.number == number
    assert same_bytes(second, following)
    second.drop(keep=True)
    memory.free_kept()
    assert open_memories() == 0


async def test_memory_of_another_layout_is_not_used_again(step: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "other", vocab_size=600, tokenizer=False)
    numbers = []
    for folder in (step, other):
        weights = shared(folder, checkpoint.read_content(folder))
        weights.hold()
        await weights.read()
        assert same_bytes(weights, folder)
        numbers.append(weights.memory.number)
        weights.drop(keep=True)
        assert open_memories() == 1

    assert numbers[0] != numbers[1]
    memory.free_kept()
    assert open_memories() == 0


async def test_pieces_are_put_together(step: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_weights, "_PIECE", 1000)
    weights = shared(step, checkpoint.read_content(step))
    weights.hold()
    await weights.read()

    assert same_bytes(weights, step)
    weights.drop()


async def test_without_room_nothing_is_read(step: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "available_bytes", lambda: memory._SPARE)
    weights = shared(step, checkpoint.read_content(step))
    weights.hold()

    with pytest.raises(NotStagedError, match=r"takes \d+ bytes.*so a swap will read its files|not in memory"):
        await weights.read()

    weights.drop()
    assert open_memories() == 0


async def test_who_drops_it_ends_a_reading_that_is_under_way(step: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_weights, "_PIECE", 1)
    weights = shared(step, checkpoint.read_content(step))
    weights.hold()
    reading = asyncio.create_task(weights.read())
    while open_memories() == 0:  # noqa: ASYNC110 - a thread reads
        await asyncio.sleep(0)

    weights.drop()

    with pytest.raises(NotStagedError, match="another checkpoint is wanted"):
        await asyncio.wait_for(reading, 20)
    await asyncio.sleep(0)
    assert open_memories() == 0


async def test_a_file_that_gets_shorter_is_refused(step: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path / "cut", tokenizer=False)
    content = checkpoint.read_content(folder)
    layout = read_layout(folder, content)
    monkeypatch.setattr(shared_weights, "read_layout", lambda *_: layout)
    os.truncate(folder / "model.safetensors", 5000)
    weights = shared(folder, content)
    weights.hold()

    with pytest.raises(CheckpointRefusedError, match="shorter than its header says"):
        await weights.read()

    weights.drop()
    assert open_memories() == 0


async def test_files_that_change_while_they_are_read_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_model(tmp_path / "moving", tokenizer=False)

    def read_then_change(where: Path, content: checkpoint.Content) -> Layout:
        layout = read_layout(where, content)
        held = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(held[:-1] + bytes([held[-1] ^ 1]))
        return layout

    monkeypatch.setattr(shared_weights, "read_layout", read_then_change)
    weights = shared(folder, checkpoint.read_content(folder))
    weights.hold()

    with pytest.raises(CheckpointRefusedError, match="changed while they were read into memory"):
        await weights.read()

    weights.drop()
    assert open_memories() == 0
