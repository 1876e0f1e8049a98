from __future__ import annotations

import pytest

from rollstream import AsyncClient
from tests.support.told_turns import Talk


@pytest.fixture
def talk(trainer: AsyncClient, redis_url: str, policy: str) -> Talk:
    """A conversation whose answers are made by hand."""
    return Talk(trainer, redis_url, policy)
