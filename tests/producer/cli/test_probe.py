"""`rollstream probe` writes what a worker and a publish read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner, Result

from rollstream import make_probe
from rollstream.producer.cli.app import app
from rollstream.producer.demo.tiny_model import write_model
from rollstream.schemas.message_files import PROBE_FILES


def rollstream(*args: str) -> Result:
    return CliRunner().invoke(app, list(args))


def test_the_probe_of_a_folder_is_that_of_its_model_in_float32(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", dtype="bfloat16")
    done = rollstream("probe", str(folder), "--out", str(tmp_path / "p"), "--tokens", "100", "--row-tokens", "25")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path / 'p'}: 100 tokens in 4 rows, vocabulary of 512, log-probs from -")
    assert f"loading {folder} in float32" in done.stderr
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    expected = make_probe(model, AutoTokenizer.from_pretrained(folder), max_tokens=100, row_tokens=25)
    assert PROBE_FILES.read(tmp_path / "p") == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "p"]


def test_a_tokenizer_may_be_elsewhere(tmp_path: Path) -> None:
    bare, other = write_model(tmp_path / "bare", tokenizer=False), write_model(tmp_path / "other")
    args = ("probe", str(bare), "--out", str(tmp_path / "p"), "--tokens", "20")
    refused = rollstream(*args)
    assert refused.exit_code == 1
    assert not (tmp_path / "p").exists()
    assert rollstream(*args, "--tokenizer", str(other)).exit_code == 0


@pytest.mark.parametrize(
    ("folder", "told"), [("none/such", "is no folder"), ("Qwen/Qwen3-0.6B", "hf download Qwen/Qwen3-0.6B")]
)
def test_a_folder_that_is_not_there_is_named(tmp_path: Path, folder: str, told: str) -> None:
    refused = rollstream("probe", folder, "--out", str(tmp_path / "p"))
    assert refused.exit_code == 1
    assert told in " ".join(refused.stderr.split())


def test_a_file_that_cannot_be_written_is_named_before_the_model_is_loaded(tmp_path: Path) -> None:
    refused = rollstream("probe", str(write_model(tmp_path / "model")), "--out", str(tmp_path / "none" / "p"))
    assert (refused.exit_code, "loading" in refused.stderr) == (1, False)
    assert "none/p cannot be written: its folder does not exist" in refused.stderr


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    write_model(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"half")
    refused = rollstream("probe", str(tmp_path / "model"), "--out", str(tmp_path / "p"))
    assert refused.exit_code == 1
    assert "holds no model that transformers can load: Error while deserializing header" in refused.stderr
