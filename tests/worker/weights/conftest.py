"""A model that a worker booted with, and a checkpoint of it that a test may harm."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollstream.producer.demo.tiny_model import write_model


@pytest.fixture
def booted(tiny_model: Path) -> Path:
    return tiny_model


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """Another version of the booted model."""
    return write_model(tmp_path / "step-7", seed=7, tokenizer=False)
