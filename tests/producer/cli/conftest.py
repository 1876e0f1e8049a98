"""The command line of one policy, and a file of prompts for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.command_line import ROWS, Command


@pytest.fixture
def command(redis_url: str, policy: str) -> Command:
    return Command(redis_url, policy)


@pytest.fixture
def prompts(tmp_path: Path) -> str:
    file = tmp_path / "prompts.jsonl"
    file.write_text(ROWS)
    return str(file)
