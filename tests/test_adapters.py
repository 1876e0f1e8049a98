"""Adapters come from one folder, get an id once, and are refused before vLLM would die of them or ignore them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from producer.tiny_model import write_adapter, write_model
from schemas import ErrorCode
from worker.adapters import AdapterDirectory
from worker.errors import DataError


@pytest.fixture
def root(tmp_path: Path, adapter_dir: Path) -> Path:
    """A copy of math@1 that a test may spoil."""
    shutil.copytree(adapter_dir / "math@1", tmp_path / "math@1")
    return tmp_path


def refusal(root: Path | None, model: Path, name: str = "math@1", max_rank: int = 16) -> DataError:
    with pytest.raises(DataError) as raised:
        AdapterDirectory(root, max_rank, model).find(name)
    assert raised.value.field == "adapter"
    return raised.value


def configure(root: Path, **fields: Any) -> None:
    path = root / "math@1" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_each_adapter_has_an_id_of_its_own_and_keeps_it(adapter_dir: Path, tiny_model: Path) -> None:
    directory = AdapterDirectory(adapter_dir, 16, tiny_model)

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
    directory = AdapterDirectory(root, 16, tiny_model)
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
    assert AdapterDirectory(adapter_dir, 16, tmp_path).find("math@1").int_id == 1


def _with_shrunk_weight(path: Path) -> bytes:
    """The file with layer 0's q_proj declared as (64, 256): the same number of bytes."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["model.layers.0.self_attn.q_proj.weight"]["shape"] = [64, 256]
    packed = json.dumps(header).encode()
    return len(packed).to_bytes(8, "little") + packed + data[8 + length :]
