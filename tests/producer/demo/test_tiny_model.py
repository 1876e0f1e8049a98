"""The tiny model and its adapters are the same bytes for a seed, and others for another."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from rollstream.producer.demo.tiny_model import write_adapter, write_model


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_a_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = write_model(tmp_path / "a", seed=3), write_model(tmp_path / "b", seed=3)
    other = write_model(tmp_path / "c", seed=4)

    assert digests(first) == digests(second)
    assert digests(first)["model.safetensors"] != digests(other)["model.safetensors"]


def test_an_adapters_seed_gives_the_same_bytes(tmp_path: Path, tiny_model: Path) -> None:
    first = write_adapter(tmp_path / "a", "math@1", model=tiny_model, seed=1)
    second = write_adapter(tmp_path / "b", "math@1", model=tiny_model, seed=1)
    other = write_adapter(tmp_path / "b", "math@2", model=tiny_model, seed=2)

    assert digests(first) == digests(second) != digests(other)


def test_a_vocabulary_too_small_for_bytes_is_refused_with_the_number(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs 259 ids, the model has 258"):
        write_model(tmp_path, vocab_size=258)
