"""A checkpoint for several engines."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollstream.producer.demo.tiny_model import write_model


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_model(tmp_path / "step-4", seed=4, tokenizer=False)
