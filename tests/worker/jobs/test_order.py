"""What the prompts of a batch are expected to need decides in which order a worker starts them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rollstream import AsyncClient, GenerationConfig
from tests.support.worker_process import WorkerProcess

CONFIG = GenerationConfig(max_new_tokens=20, ignore_eos=True)
PROMPTS = [[row] for row in range(5, 13)]


@pytest.fixture
def worker(redis_url: str, policy: str) -> Iterator[WorkerProcess]:
    """One completion at a time, each for 0.05 s."""
    flags = ["--engine", "stub", "--stub-tokens-per-s", "400", "--max-num-seqs", "1", "--inflight-sequences", "8"]
    started = WorkerProcess(redis_url, policy, *flags)
    try:
        yield started.wait_until_serving()
    finally:
        started.end()


@pytest.mark.parametrize(
    ("expected", "prompts_per_job", "ended"),
    [
        (None, 1, [0, 1, 2, 3, 4, 5, 6, 7]),
        ([3, 8, 1, 6, 2, 7, 4, 5], 1, [1, 5, 3, 7, 6, 0, 4, 2]),
        ([3, 8, 1, 6, 2, 7, 4, 5], 8, [1, 5, 3, 7, 6, 0, 4, 2]),
    ],
    ids=["nobody says", "of several jobs", "of one job"],
)
async def test_the_longest_prompts_are_started_first(
    trainer: AsyncClient, worker: WorkerProcess, expected: list[int] | None, prompts_per_job: int, ended: list[int]
) -> None:
    handle = await trainer.submit(PROMPTS, None, CONFIG, expected_tokens=expected, prompts_per_job=prompts_per_job)

    assert [answer.group async for answer in handle.groups(30)] == ended
    assert worker.process.poll() is None
