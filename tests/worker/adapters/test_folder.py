"""Adapters come from one folder, get an id once, and are refused before vLLM would die of them or ignore them."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rollstream.producer.demo.tiny_model import write_adapter, write_model
from rollstream.schemas import ErrorCode
from rollstream.worker.adapters.folder import AdapterFolder
from rollstream.worker.errors import DataError
from rollstream.worker.requests import Adapter
from tests.support.weights.publishing import STEM


@pytest.fixture
def root(tmp_path: Path, adapter_dir: Path) -> Path:
    """A copy of math@1 that a test may spoil."""
    shutil.copytree(adapter_dir / "math@1", tmp_path / "math@1")
    return tmp_path


def refusal(root: Path | None, model: Path, name: str = "math@1", max_rank: int = 16) -> DataError:
    with pytest.raises(DataError) as raised:
        AdapterFolder(root=root, max_rank=max_rank, model=model).find(name)
    assert raised.value.field == "adapter"
    return raised.value


def configure(root: Path, **fields: Any) -> None:
    path = root / "math@1" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_each_adapter_has_an_id_of_its_own_and_keeps_it(adapter_dir: Path, tiny_model: Path) -> None:
    directory = AdapterFolder(root=adapter_dir, max_rank=16, model=tiny_model)

    found = [directory.find(name) for name in ("math@1", "math@2", "code@1", "math@1")]

    assert [adapter.int_id for adapter in found] == [1, 2, 3, 1]
    assert found[1].name == "math@2"
    assert found[1].path == (adapter_dir / "math@2").resolve()


@pytest.mark.parametrize("name", ["math@3", "other@1", "../math@1", "/etc", "math", "math@1/../code@1", ""])
def test_only_folders_of_the_directory_are_found(adapter_dir: Path, tiny_model: Path, name: str) -> None:
    error = refusal(adapter_dir, tiny_model, name)

    assert error.code == ErrorCode.UNKNOWN_ADAPTER
    assert str(adapter_dir) not in error.message


def test_an_unknown_adapter_names_the_flag(adapter_dir: Path, tiny_model: Path) -> None:
    assert "--adapter-dir has no folder" in refusal(adapter_dir, tiny_model, "math@3").message
    assert "start it with --adapter-dir" in refusal(None, tiny_model).message


def test_an_adapter_published_later_is_found_then(root: Path, adapter_dir: Path, tiny_model: Path) -> None:
    directory = AdapterFolder(root=root, max_rank=16, model=tiny_model)
    with pytest.raises(DataError):
        directory.find("code@1")

    shutil.copytree(adapter_dir / "code@1", root / "code@1")

    assert directory.find("code@1").int_id == 1


def test_too_high_a_rank_is_refused_with_both_ranks(adapter_dir: Path, tiny_model: Path) -> None:
    error = refusal(adapter_dir, tiny_model, max_rank=4)

    assert (error.code, "rank 8 exceeds the worker's --max-lora-rank 4" in error.message) == (
        ErrorCode.ADAPTER_REFUSED,
        True,
    )


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"peft_type": "IA3"}, "peft_type"),
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias"),
        ({"target_modules": r".*\.0\..*"}, "a regular expression for the whole path of a module, leaves it out"),
        ({"alpha_pattern": {"q_proj": 32}}, "alpha_pattern"),
        ({"r": 0}, "positive integer"),
        ({"r": True}, "positive integer"),
        ({"r": 4}, "not of rank 4"),
    ],
)
def test_a_config_that_vllm_would_not_apply_is_refused(
    root: Path, tiny_model: Path, fields: dict[str, Any], says: str
) -> None:
    configure(root, **fields)

    error = refusal(root, tiny_model)

    assert error.code == ErrorCode.ADAPTER_REFUSED
    assert says in error.message


def test_an_adapter_for_a_model_of_another_shape_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    write_adapter(tmp_path, "math@1", model=tiny_model, seed=1)
    other = tmp_path / "other"
    write_model(other, vocab_size=16, tokenizer=False)
    shrunk = _with_shrunk_weight(other / "model.safetensors")
    (other / "model.safetensors").write_bytes(shrunk)

    assert "made for another model" in refusal(tmp_path, other).message


def test_an_adapter_for_layers_that_do_not_exist_is_refused(root: Path, tiny_model: Path) -> None:
    weights = root / "math@1" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes().replace(b"layers.1.", b"layers.7."))

    assert "names a layer that the worker's model does not have" in refusal(root, tiny_model).message


@pytest.mark.parametrize("keep", [0, 7, 100, -1000])
def test_a_truncated_file_is_refused(root: Path, tiny_model: Path, keep: int) -> None:
    weights = root / "math@1" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])

    error = refusal(root, tiny_model)

    assert error.code == ErrorCode.ADAPTER_REFUSED
    assert "adapter_model.safetensors" in error.message


@pytest.mark.parametrize("missing", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_missing_file_is_refused_by_name(root: Path, tiny_model: Path, missing: str) -> None:
    (root / "math@1" / missing).unlink()

    assert missing in refusal(root, tiny_model).message


def test_a_huge_header_is_refused_unread(root: Path, tiny_model: Path) -> None:
    (root / "math@1" / "adapter_model.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")

    assert "no safetensors file" in refusal(root, tiny_model).message


def test_a_model_without_safetensors_says_nothing_about_shapes(adapter_dir: Path, tmp_path: Path) -> None:
    assert AdapterFolder(root=adapter_dir, max_rank=16, model=tmp_path).find("math@1").int_id == 1


FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
LAST = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"


def rewrite(root: Path, dtype: torch.dtype, value: float | None = None, *, at: int = -1) -> None:
    """math@1 in another dtype; `value`: of one weight of its last tensor."""
    path = root / "math@1" / "adapter_model.safetensors"
    weights = {name: tensor.float().clamp(-1, 1).to(dtype) for name, tensor in load_file(path).items()}
    if value is not None:
        weights[LAST].view(-1)[at] = value
    save_file(weights, path)


@pytest.mark.parametrize("at", [0, -1])
@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (dtype, float(value))
        for dtype, value in itertools.product(FLOATS, ("nan", "inf", "-inf"))
        if value == "nan" or dtype is not torch.float8_e4m3fn  # which has no infinities
    ],
    ids=str,
)
def test_a_weight_that_is_not_finite_is_refused_by_name(
    root: Path, tiny_model: Path, dtype: torch.dtype, value: float, at: int
) -> None:
    rewrite(root, dtype, value, at=at)

    error = refusal(root, tiny_model)

    assert error.code == ErrorCode.ADAPTER_REFUSED
    assert f"tensor {LAST} has a weight that is NaN or infinite" in error.message


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_largest_finite_weights_are_taken(root: Path, tiny_model: Path, dtype: torch.dtype) -> None:
    limits = torch.finfo(dtype)
    for value in (limits.max, limits.min, limits.smallest_normal, -0.0):
        rewrite(root, dtype, value)

        assert AdapterFolder(root=root, max_rank=16, model=tiny_model).find("math@1").name == "math@1"


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.float64, torch.complex64], ids=str)
def test_weights_that_are_no_floats_as_adapters_have_them_are_refused(
    root: Path, tiny_model: Path, dtype: torch.dtype
) -> None:
    rewrite(root, dtype)

    error = refusal(root, tiny_model)

    assert (error.code, "cast it before saving" in error.message) == (ErrorCode.ADAPTER_REFUSED, True)


def test_a_weight_beyond_the_first_piece_that_is_read_is_looked_at(tmp_path: Path) -> None:
    model = tmp_path / "no-model"
    model.mkdir()
    weights = {f"{STEM}.{part}.weight": torch.zeros(shape) for part, shape in SHAPES.items()}
    weights[f"{STEM}.lora_B.weight"][300_000, 0] = float("nan")
    (tmp_path / "math@1").mkdir()
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"]}
    (tmp_path / "math@1" / "adapter_config.json").write_text(json.dumps(config))
    save_file(weights, tmp_path / "math@1" / "adapter_model.safetensors")

    assert f"tensor {STEM}.lora_B.weight has a weight" in refusal(tmp_path, model).message


SHAPES = {"lora_A": (1, 3), "lora_B": (300_001, 1)}


def test_an_adapter_that_changes_while_it_is_checked_is_not_taken_for_what_was_checked(
    root: Path, tiny_model: Path
) -> None:
    class Changing(AdapterFolder):
        def admit(self, name: str, folder: Path) -> Adapter:
            admitted = super().admit(name, folder)
            rewrite(root, torch.float16)
            return admitted

    with pytest.raises(DataError, match="changed after it was loaded"):
        Changing(root=root, max_rank=16, model=tiny_model).find("math@1")


def test_an_adapter_whose_config_changes_later_is_refused(root: Path, tiny_model: Path) -> None:
    """vLLM reads the config again if it had dropped the adapter; from then on the scale would be another."""
    directory = AdapterFolder(root=root, max_rank=16, model=tiny_model)
    directory.find("math@1")

    configure(root, lora_alpha=64.0)

    with pytest.raises(DataError, match="changed after it was loaded"):
        directory.find("math@1")


def test_a_folder_that_the_file_system_refuses_is_no_adapter(root: Path, tiny_model: Path) -> None:
    (root / "loop@1").symlink_to(root / "loop@1")

    assert refusal(root, tiny_model, "loop@1").code == ErrorCode.UNKNOWN_ADAPTER
    for refused in (root / "math@1" / "adapter_config.json", root / ("x" * 300)):
        assert "has no folder of that name" in refusal(refused, tiny_model).message


def test_weights_that_lead_to_themselves_are_refused(root: Path, tiny_model: Path) -> None:
    weights = root / "math@1" / "adapter_model.safetensors"
    weights.unlink()
    weights.symlink_to(weights)

    assert "adapter_model.safetensors is not readable (Too many levels" in refusal(root, tiny_model).message


def _with_shrunk_weight(path: Path) -> bytes:
    """The file with layer 0's q_proj declared as (64, 256): the same number of bytes."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["model.layers.0.self_attn.q_proj.weight"]["shape"] = [64, 256]
    packed = json.dumps(header).encode()
    return len(packed).to_bytes(8, "little") + packed + data[8 + length :]
