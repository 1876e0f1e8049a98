"""The command line of one policy."""

from __future__ import annotations

import pytest

from tests.support.command_line import Command


@pytest.fixture
def command(redis_url: str, policy: str) -> Command:
    return Command(redis_url, policy)
