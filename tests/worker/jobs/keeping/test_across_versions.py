"""Samples that several workers and several policy versions sampled have the tokens that their spans and seeds give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rollstream import AsyncClient, GroupResult
from tests.support.faults import Queue
from tests.support.partials.partial_steps import asked, check_drawn, drained, resumed_at, serving, so_far
from tests.support.weights.versions import announce_step
from tests.support.worker_process import until_true

pytestmark = pytest.mark.usefixtures("short_reads")
PROMPTS = [[5, 6], [7, 8], [9, 10], [11, 12]]


async def test_each_token_is_that_of_its_version(
    redis_url: str, policy: str, trainer: AsyncClient, queue: Queue, steps: Path
) -> None:
    chosen: dict[str, Any] = {"stub_tokens_per_s": 200, "checkpoint_dir": steps}
    async with serving(redis_url, policy, swap="abort", **chosen) as first:
        batch = await trainer.submit(PROMPTS, config=asked(800))
        await until_true(lambda: min(so_far(first), default=0) >= 20)
        announce_step(queue, steps, 1)
        await until_true(lambda: first._engine.policy_version == 1)
        await until_true(lambda: min(so_far(first), default=0) >= 100)
        await drained(first)
    async with serving(redis_url, policy, swap="keep", **chosen) as second:
        await until_true(lambda: min(so_far(second), default=0) >= 200)
        announce_step(queue, steps, 2)
        groups = [group async for group in batch.groups(timeout=30)]

    results = [group for group in groups if isinstance(group, GroupResult)]
    places = check_drawn(results)
    assert [[version for version, _ in one.version_spans] for group in results for one in group] == [[0, 1, 2]] * 8
    aborted = [one.version_spans[0][1] for group in results for one in group]
    drained_at = [place for group in results for place in resumed_at(group)]
    assert places == [list(pair) for pair in zip(aborted, drained_at, strict=True)]
