"""A server of an invented fleet."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from rollstream.schemas import Keys
from tests.support.watching.served_page import TOKEN, Served, reading, served


@pytest.fixture
async def page() -> AsyncIterator[Served]:
    """Open to this machine, without actions."""
    async with served() as page:
        yield page


@pytest.fixture
async def guarded() -> AsyncIterator[Served]:
    """With a token, and with actions."""
    async with served(token=TOKEN, allow_actions=True) as page:
        yield page


@pytest.fixture
async def live(redis_url: str, policy: str) -> AsyncIterator[Served]:
    """This test's policy as it stands in Redis, with a token and with actions."""
    async with served(token=TOKEN, allow_actions=True, **reading(redis_url, Keys(policy))) as page:
        yield page
