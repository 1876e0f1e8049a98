"""Fixtures: one real Redis a session, a policy (and so a queue) of its own for every test, workers as processes."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from producer import Client
from producer.demo_worker import SMALL_MODEL_ENV
from producer.embedded import EmbeddedRedis
from producer.tiny_model import write_adapter, write_model
from tests.faults import Link, Queue
from tests.worker_process import WorkerProcess, running_worker
from worker.connections import connect

_numbers = itertools.count()

os.environ.update(SMALL_MODEL_ENV)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with EmbeddedRedis() as server:
        yield server.url


@pytest.fixture
def policy(request: pytest.FixtureRequest) -> str:
    name = re.sub(r"[^A-Za-z0-9]+", "-", request.node.name).strip("-")[:60]
    return f"{name}-{next(_numbers)}"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client as the worker makes it."""
    client = connect(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
def client(redis_url: str, policy: str) -> Iterator[Client]:
    """A blocking client of this test's policy."""
    with Client(redis_url, policy=policy) as client:
        yield client


@pytest.fixture
def queue(redis_url: str, policy: str) -> Iterator[Queue]:
    """What Redis holds of this test's policy."""
    with Queue(redis_url, policy) as queue:
        yield queue


@pytest.fixture
def link(redis_url: str) -> Iterator[Link]:
    """A way to the same Redis that can be frozen, cut or made to lose a reply."""
    with Link(redis_url) as link:
        yield link


@pytest.fixture
def stub_worker(redis_url: str, policy: str) -> Iterator[WorkerProcess]:
    """A serving stub worker of this test's policy; vocabulary 1000."""
    with running_worker(redis_url, policy, "--engine", "stub", "--stub-vocab-size", "1000") as worker:
        yield worker


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 Qwen2 of two layers with a tokenizer, vocabulary 512, EOS 2."""
    return write_model(tmp_path_factory.mktemp("models") / "tiny", seed=0)


@pytest.fixture(scope="session")
def adapter_dir(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Adapters of the tiny model: math@1, math@2 and code@1 of rank 8."""
    root = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("math@1", "math@2", "code@1"), start=1):
        write_adapter(root, name, model=tiny_model, seed=seed)
    return root
