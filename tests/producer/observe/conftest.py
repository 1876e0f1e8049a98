"""A reader of the policy of each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from rollstream.producer.observe.read_fleet import FleetReader
from rollstream.producer.redis_io.connection import Connection
from rollstream.schemas import Keys


@pytest.fixture
def keys(policy: str) -> Keys:
    return Keys(policy)


@pytest.fixture
async def connection(redis_url: str) -> AsyncIterator[Connection]:
    connection = Connection(access=redis_url, reconnect_s=5)
    yield connection
    await connection.aclose()


@pytest.fixture
def reader(connection: Connection, keys: Keys) -> FleetReader:
    return FleetReader(connection=connection, keys=keys)
