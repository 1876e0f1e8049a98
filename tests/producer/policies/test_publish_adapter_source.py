"""Folders and tensors of an adapter are read without holding anything up; what is no adapter is not sent."""

from __future__ import annotations

import asyncio
import os
import shutil
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file

from rollstream import AdapterError, AsyncClient, NameRefusedError
from rollstream.producer.policies.adapter_files import CHUNK_BYTES, read_adapter
from rollstream.producer.policies.adapter_upload import upload
from rollstream.producer.redis_io.connection import Connection
from tests.support.faults import Queue
from tests.support.weights.publishing import STEM, A, B, blobs, lora, manifests, peft_folder, read_back

MIB = 2**20


async def test_tensors_may_be_trained_on_once_the_call_has_begun(trainer: AsyncClient, queue: Queue) -> None:
    tensors = lora(width=2**20)  # large enough to be still on its way then
    expected = {name: tensor.clone() for name, tensor in tensors.items()}
    publishing = asyncio.create_task(trainer.publish_adapter("math", 1, tensors, lora_alpha=8))
    await asyncio.sleep(0)  # it runs up to where it first waits
    for tensor in tensors.values():
        tensor.zero_()
    await publishing
    _, found = read_back(queue, "math@1")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


async def test_tensors_that_share_memory_or_carry_gradients_travel(trainer: AsyncClient, queue: Queue) -> None:
    fused = torch.arange(64.0, dtype=torch.float64).reshape(8, 8).to(torch.bfloat16).requires_grad_()
    tensors = {f"{STEM}.lora_A.weight": fused[:4], f"{STEM}.lora_B.weight": fused.T[:, :4]}
    await trainer.publish_adapter("math", 1, tensors, lora_alpha=8)
    _, found = read_back(queue, "math@1")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def _spoilt(value: float) -> torch.Tensor:
    tensor = torch.ones(4, 8)
    tensor[2, 3] = value
    return tensor


def _quietly(make: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Torch warns of what it will take out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def _quantised(tensor: torch.Tensor) -> torch.Tensor:
    return torch.quantize_per_tensor(tensor, 1.0, 0, torch.qint8)


class Strange(torch.Tensor):
    """Behaves like a tensor of a model that is spread over processes."""


BAD_TENSORS: list[tuple[dict[str, Any], Any, str]] = [
    ({}, 8, "has no tensors"),
    (lora(), None, "lora_alpha None"),
    (lora(), 0, "lora_alpha 0"),
    (lora(), True, "lora_alpha True"),
    (lora(), float("nan"), "lora_alpha nan"),
    ({**lora(), "lm_head.weight": torch.ones(2, 2)}, 8, "'lm_head.weight' is no LoRA weight"),
    ({f"{STEM}.lora_A.default.weight": torch.ones(2, 2)}, 8, "get_peft_model_state_dict"),
    ({A: torch.ones(4, 8)}, 8, "needs both lora_A and lora_B"),
    ({A: torch.ones(4, 8), B: torch.ones(8, 5)}, 8, "which is not of rank 4"),
    ({A: torch.ones(4), B: torch.ones(8, 4)}, 8, "two dimensions"),
    ({A: [[1.0]], B: [[1.0]]}, 8, "must be a plain torch tensor"),
    ({A: torch.ones(1, 1).expand(1, 2**29), B: torch.ones(1, 1)}, 8, "at most 1073741824 travel"),
    (lora(), 10**400, "lora_alpha some int"),
    (lora(), 10**10, "at most 1e\\+09"),
    (lora(), float("inf"), "lora_alpha inf"),
    (lora(), "8", "lora_alpha '8'"),
    ({A: torch.ones(4, 8, device="meta"), B: torch.ones(8, 4)}, 8, "meta device"),
    ({A: torch.ones(4, 8).to_sparse(), B: torch.ones(8, 4)}, 8, "sparse"),
    ({A: _quietly(lambda: torch.nested.nested_tensor([torch.ones(4)])), B: torch.ones(8, 4)}, 8, "nested"),
    ({A: _quietly(lambda: _quantised(torch.ones(4, 8))), B: torch.ones(8, 4)}, 8, "is torch.qint8"),
    *(
        ({A: torch.ones(4, 8), B: torch.ones(8, 4).to(dtype)}, 8, f"is {dtype}: cast it to float32 or")
        for dtype in (torch.int8, torch.bool, torch.complex64, torch.float64, torch.float8_e4m3fn)
    ),
    ({A: torch.ones(4, 8), B: torch.full((8, 4), torch.nan)}, 8, "holds NaN or infinity"),
    ({A: _spoilt(torch.inf), B: torch.ones(8, 4)}, 8, "holds NaN or infinity"),
    ({A: _spoilt(-torch.inf).bfloat16(), B: torch.ones(8, 4)}, 8, "holds NaN or infinity"),
    ({A: _spoilt(torch.nan).half(), B: torch.ones(8, 4)}, 8, "holds NaN or infinity"),
    ({A: torch.ones(0, 8), B: torch.ones(8, 0)}, 8, "two dimensions above 0"),
    ({A: torch.Tensor.as_subclass(torch.ones(4, 8), Strange), B: torch.ones(8, 4)}, 8, "not some Strange"),
    ({"lora_A.weight": torch.ones(4, 8), "lora_B.weight": torch.ones(8, 4)}, 8, "is no LoRA weight"),
    ({"a..lora_A.weight": torch.ones(4, 8), "a..lora_B.weight": torch.ones(8, 4)}, 8, "is no LoRA weight"),
    ({".lora_A.weight": torch.ones(4, 8), ".lora_B.weight": torch.ones(8, 4)}, 8, "is no LoRA weight"),
    ({"a\udc80.lora_A.weight": torch.ones(4, 8)}, 8, "is no LoRA weight"),
    (cast("Any", {5: torch.ones(4, 8)}), 8, "is no LoRA weight"),
]


@pytest.mark.parametrize(("tensors", "alpha", "words"), BAD_TENSORS, ids=[words for *_, words in BAD_TENSORS])
async def test_tensors_that_are_no_adapter_are_not_sent(
    trainer: AsyncClient, queue: Queue, tensors: dict[str, Any], alpha: Any, words: str
) -> None:
    with pytest.raises(AdapterError, match=words):
        await trainer.publish_adapter("math", 1, tensors, lora_alpha=alpha)
    assert (manifests(queue), blobs(queue)) == ([], [])


def _truncate(folder: Path) -> None:
    with (folder / "adapter_model.safetensors").open("r+b") as file:
        file.truncate(100)


def _enlarge(folder: Path) -> None:
    with (folder / "adapter_model.safetensors").open("r+b") as file:
        file.truncate(2**30 + 1)  # a sparse file


def _fifo(name: str) -> Callable[[Path], object]:
    def replace(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return replace


def _loop(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()
    (folder / "adapter_config.json").symlink_to("adapter_config.json")


def _cast(dtype: torch.dtype) -> Callable[[Path], object]:
    return lambda folder: save_file(
        {name: tensor.to(dtype) for name, tensor in lora().items()}, folder / "adapter_model.safetensors"
    )


BAD_FOLDERS: list[tuple[Callable[[Path], object], str]] = [
    (shutil.rmtree, "needs adapter_config.json and adapter_model.safetensors"),
    (lambda folder: (folder / "adapter_model.safetensors").unlink(), "needs adapter_config.json"),
    (lambda folder: (folder / "adapter_config.json").write_text("[]"), "adapter_config.json is no JSON object"),
    (lambda folder: (folder / "adapter_config.json").write_text('{"a'), "adapter_config.json is no JSON object"),
    (lambda folder: (folder / "adapter_config.json").write_bytes(b" " * 70_000), "more than 65536 bytes"),
    (_truncate, "is not whole"),
    (_enlarge, "at most 1073741824 travel"),
    (_fifo("adapter_config.json"), "adapter_config.json is not there, or no file"),
    (_fifo("adapter_model.safetensors"), "adapter_model.safetensors is not there, or no file"),
    (_loop, "adapter_config.json is not there, or no file"),
    (lambda folder: (folder / "adapter_config.json").write_text("[" * 60_000), "adapter_config.json is no JSON object"),
    (_cast(torch.int8), "it has tensors of I8, not F32 or F16 or BF16"),
    (_cast(torch.float64), "it has tensors of F64, not F32 or F16 or BF16"),
]


@pytest.mark.parametrize(
    ("harm", "words"), BAD_FOLDERS, ids=[f"{n} {words[:30]}" for n, (_, words) in enumerate(BAD_FOLDERS)]
)
async def test_a_folder_that_is_no_adapter_is_not_sent(
    trainer: AsyncClient, queue: Queue, tmp_path: Path, harm: Callable[[Path], object], words: str
) -> None:
    folder = peft_folder(tmp_path / "a", lora())
    harm(folder)
    with pytest.raises(AdapterError, match=words):
        await trainer.publish_adapter("math", 1, folder)
    assert (manifests(queue), blobs(queue)) == ([], [])


async def test_a_folder_knows_its_lora_alpha(trainer: AsyncClient, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="leave it out"):
        await trainer.publish_adapter("math", 1, peft_folder(tmp_path / "a", lora()), lora_alpha=8)
    with pytest.raises(AdapterError, match="give a folder or a state dict, not int"):
        await trainer.publish_adapter("math", 1, cast("Any", 5))


@pytest.mark.parametrize(
    ("name", "version"), [("math", -1), ("math", True), ("math", "1"), ("ma:th", 1), ("", 1), (3, 1)]
)
async def test_names_that_no_key_may_hold_are_refused(trainer: AsyncClient, name: Any, version: Any) -> None:
    with pytest.raises(NameRefusedError):
        await trainer.publish_adapter(name, version, lora(), lora_alpha=8)


async def test_a_file_that_changes_during_an_upload_never_travels_under_the_old_digest(
    redis_url: str, queue: Queue, tmp_path: Path
) -> None:
    folder = peft_folder(tmp_path / "a", lora(width=2**18))
    files = await read_adapter("math@1", folder)
    with (folder / "adapter_model.safetensors").open("r+b") as file:
        file.seek(CHUNK_BYTES + 100)
        file.write(b"changed")
    connection = Connection(access=redis_url, reconnect_s=5)
    with pytest.raises(AdapterError, match="changed while it was read"):
        await upload(connection, queue.keys, "math@1", files, progress=False)
    shutil.rmtree(folder)
    with pytest.raises(AdapterError, match="cannot be read any more"):
        await upload(connection, queue.keys, "math@1", files, progress=False)
    await connection.aclose()
    assert manifests(queue) == []
    assert len(blobs(queue)) == 1


async def test_a_folder_is_read_chunk_by_chunk(trainer: AsyncClient, tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "a", lora(width=2**20))
    tracemalloc.start()
    await trainer.publish_adapter("math", 1, folder)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (folder / "adapter_model.safetensors").stat().st_size > 32 * MIB
    assert peak < 4 * CHUNK_BYTES


async def test_reading_leaves_the_event_loop_free(tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "a", lora(width=2**20))
    reading = asyncio.create_task(read_adapter("math@1", folder))
    turns = 0
    while not reading.done():
        await asyncio.sleep(0)
        turns += 1
    assert (await reading).num_bytes > 32 * MIB
    assert turns > 10
