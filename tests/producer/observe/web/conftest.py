"""A server of an invented fleet."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.served_page import TOKEN, Served, served


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
