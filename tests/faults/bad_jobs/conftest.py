"""One worker for all tests of this folder: a job that a test sends must not harm the next test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from rollstream import AsyncClient
from tests.faults.bad_jobs.steps import POLICY, numbers
from tests.support.worker_process import WorkerProcess, running_worker


@pytest.fixture(scope="package", autouse=True)
def worker(redis_url: str) -> Iterator[WorkerProcess]:
    """The worker for all tests of this folder."""
    with running_worker(redis_url, POLICY, "--engine", "stub", "--stub-vocab-size", "1000") as worker:
        yield worker


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(redis_url, policy=POLICY) as client:
        yield client


@pytest.fixture
def batch_id() -> str:
    return f"batch-{next(numbers)}"
