"""A worker with another model, dtype or version behind the same number begins samples again, and the answer says so."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from rollstream import AsyncClient, GroupResult
from tests.support.faults import Queue
from tests.support.partials.partial_steps import asked, check_drawn, drained, serving, so_far
from tests.support.weights.versions import announce_step
from tests.support.worker_process import until_true

pytestmark = pytest.mark.usefixtures("short_reads")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
async def test_samples_of_another_dtype_begin_again_and_those_of_the_same_do_not(
    redis_url: str, policy: str, trainer: AsyncClient, steps: Path, dtype: str
) -> None:
    chosen: dict[str, Any] = {"stub_tokens_per_s": 400, "checkpoint_dir": steps, "swap": "keep"}
    async with serving(redis_url, policy, dtype="float32", **chosen) as first:
        batch = await trainer.submit([[5, 6], [7, 8]], config=asked(300))
        await until_true(lambda: min(so_far(first), default=0) >= 20)
        await drained(first)
    async with serving(redis_url, policy, dtype=dtype, **chosen):
        groups = [group async for group in batch.groups(timeout=30)]

    results = [group for group in groups if isinstance(group, GroupResult)]
    assert len(results) == 2
    check_drawn(results)
    assert [group.resumed_at is not None for group in results] == [dtype == "float32"] * 2


@pytest.mark.parametrize("content", ["math@1", "code@1"])
async def test_samples_of_another_adapter_of_the_same_name_begin_again_and_those_of_the_same_do_not(
    redis_url: str, policy: str, trainer: AsyncClient, adapter_dir: Path, tmp_path: Path, content: str
) -> None:
    shutil.copytree(adapter_dir / content, tmp_path / "math@1")
    chosen: dict[str, Any] = {"stub_tokens_per_s": 400, "swap": "keep"}
    async with serving(redis_url, policy, adapter_dir=adapter_dir, **chosen) as first:
        batch = await trainer.submit([[5, 6], [7, 8]], config=asked(300), adapter="math@1")
        await until_true(lambda: min(so_far(first), default=0) >= 20)
        await drained(first)
    async with serving(redis_url, policy, adapter_dir=tmp_path, **chosen):
        groups = [group async for group in batch.groups(timeout=30)]

    results = [group for group in groups if isinstance(group, GroupResult)]
    assert [group.resumed_at is not None for group in results] == [content == "math@1"] * 2


@pytest.mark.parametrize("step", [1, 2])
async def test_samples_of_a_version_whose_number_is_announced_again_begin_again_unless_it_is_the_same(
    redis_url: str, policy: str, trainer: AsyncClient, queue: Queue, steps: Path, step: int
) -> None:
    chosen: dict[str, Any] = {"stub_tokens_per_s": 400, "checkpoint_dir": steps, "swap": "keep"}
    announce_step(queue, steps, 5, step=1)
    async with serving(redis_url, policy, **chosen) as first:
        batch = await trainer.submit([[5, 6], [7, 8]], config=asked(300))
        await until_true(lambda: min(so_far(first), default=0) >= 20)
        await drained(first)
    queue.redis.delete(queue.keys.versions(), queue.keys.activations())
    announce_step(queue, steps, 5, step=step)
    async with serving(redis_url, policy, **chosen):
        groups = [group async for group in batch.groups(timeout=30)]

    results = [group for group in groups if isinstance(group, GroupResult)]
    assert [one.version_spans for group in results for one in group] == [((5, 300),)] * 4
    assert [group.resumed_at is not None for group in results] == [step == 1] * 2
