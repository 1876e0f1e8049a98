"""Weights that are NaN or infinite are found while a file is read for its digest, wherever its pieces end."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from rollstream import CheckpointError
from rollstream.producer.policies.checkpoint_files import CheckpointFolder
from rollstream.schemas.weights.checkpoint_rules import is_computed
from rollstream.schemas.weights.finite import FiniteScan
from rollstream.worker.weights.checkpoint import digest, read_content
from tests.support.weights.versions import shard

NAN, INF = float("nan"), float("inf")
DTYPES = {
    torch.float64: 1.79e308, torch.float32: 3.40e38, torch.float16: 65504.0, torch.bfloat16: 3.38e38,
    torch.float8_e5m2: 57344.0, torch.float8_e4m3fn: 448.0,
}  # fmt: skip


def spoilt(content: bytes, piece: int) -> str | None:
    scan = FiniteScan(is_computed)
    for start in range(0, len(content), piece):
        scan.feed(content[start : start + piece])
    return scan.spoilt


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_weight_that_is_not_finite_is_found_whatever_its_place_and_the_largest_finite_ones_are_not(
    dtype: torch.dtype,
) -> None:
    largest = torch.tensor([DTYPES[dtype], -DTYPES[dtype], 0.0, -0.0, 1.0] * 5, dtype=torch.float64).to(dtype)
    assert spoilt(save({"a": largest, "b": largest.clone()}), 7) is None

    for value in (NAN, -NAN, *([INF, -INF] if dtype != torch.float8_e4m3fn else [])):
        for place in (0, 11, 24):
            tensors = {"a": largest, "b": largest.clone(), "c": largest.clone()}
            tensors["b"][place] = torch.tensor(value, dtype=torch.float64).to(dtype)
            content = save(tensors)
            assert {spoilt(content, piece) for piece in (1, 3, 7, 64, len(content))} == {"b"}, (value, place)


def test_whole_numbers_and_computed_buffers_are_no_weights() -> None:
    tensors = {
        "ids": torch.full((9,), -1, dtype=torch.int64),
        "mask": torch.full((9,), 255, dtype=torch.uint8),
        "a.rotary_emb.inv_freq": torch.full((9,), NAN),
        "empty": torch.empty(0),
    }
    assert spoilt(save(tensors), 5) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"\x01", b"\xff" * 4000, (4).to_bytes(8, "little") + b"null", (9).to_bytes(8, "little") + b'{"a": 17}',
     (200_000).to_bytes(8, "little") + b"[" * 200_000,
     (66).to_bytes(8, "little") + b'{"a":{"dtype":["F32"],"shape":[2],"data_offsets":[0,8]},"b":null}'.ljust(66)],
    ids=["empty", "a byte", "a huge header", "null", "a number", "deep", "no dtype"],
)  # fmt: skip
def test_a_file_that_is_not_safetensors_is_left_to_the_check_of_headers(content: bytes) -> None:
    for piece in (9, 10**6):
        assert spoilt(content, piece) is None


@pytest.fixture
def step(models: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(models / "step-1", tmp_path / "step-1"))


def set_one(folder: Path, file: str, tensor: str, value: float) -> None:
    weights: dict[str, Any] = load_file(folder / file)
    weights[tensor].view(-1)[-1] = value
    save_file(weights, folder / file, metadata={"format": "pt"})


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_checkpoint_that_diverged_is_told_by_name_and_not_published(value: float, step: Path) -> None:
    assert read_content(step).spoilt is None
    norm = "model.norm.weight"
    file = next(path.name for path in shard(step).glob("*.safetensors") if norm in load_file(path))
    set_one(step, file, norm, value)

    found = read_content(step)

    assert found.sha256 == digest(step)
    assert found.spoilt is not None
    assert found.spoilt[0] == file
    assert found.spoilt[1].startswith(f"tensor {norm} has a weight that is NaN or infinite")
    with pytest.raises(CheckpointError, match=f"{file}: tensor {norm} has a weight that is NaN or infinite"):
        CheckpointFolder(step).digest()
