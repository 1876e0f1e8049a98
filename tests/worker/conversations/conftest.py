"""The command line of one policy, and dead letters in its queue."""

from __future__ import annotations

import pytest

from rollstream import Client
from tests.support.command_line import Command
from tests.support.dead_letters import CONFIG, Operator
from tests.support.faults import Queue


@pytest.fixture
def command(redis_url: str, policy: str) -> Command:
    return Command(redis_url, policy)


@pytest.fixture
def operator(redis_url: str, policy: str) -> Operator:
    return Operator(redis_url, policy)


@pytest.fixture
def payload(redis_url: str, policy: str, queue: Queue) -> bytes:
    """Payload of a real job of batch `b`, whose entry is gone."""
    with Client(redis_url, policy=policy) as client:
        client.submit([[1, 2], [3]], None, CONFIG, batch_id="b")
    ((entry_id, fields),) = queue.entries()
    queue.redis.xdel(queue.jobs_key, entry_id)
    return fields[b"payload"]
