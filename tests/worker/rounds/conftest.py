"""A client's connection, a store, and a worker that receives rounds."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from rollstream.producer.redis_io.connection import Connection
from rollstream.worker.rounds.receiver import RoundReceiver
from tests.support.faults import Queue
from tests.worker.rounds.receiving import Files, receiver_of


@pytest.fixture
async def connection(redis_url: str) -> AsyncIterator[Connection]:
    connection = Connection(access=redis_url, reconnect_s=5)
    yield connection
    await connection.aclose()


@pytest.fixture
async def files() -> Files:
    return Files()


@pytest.fixture
async def receiver(redis: Redis, queue: Queue, files: Files) -> AsyncIterator[RoundReceiver]:
    receiver = receiver_of(redis, queue.keys, files)
    yield receiver
    await receiver.aclose()
