"""A worker that processes a prompt's images otherwise begins its samples again: none follows two prompts."""

from __future__ import annotations

from typing import Any

import pytest

from rollstream import AsyncClient, GroupResult
from tests.support.images.pictures import file_of
from tests.support.partials.partial_steps import asked, drained, serving, so_far
from tests.support.worker_process import until_true

IMAGE = 9


@pytest.mark.parametrize(
    ("patch", "mean"), [(16, 0.5), (8, 0.5), (16, 0.4)], ids=["the same processor", "other ids", "other pixels"]
)
@pytest.mark.usefixtures("short_reads")
async def test_samples_go_on_only_where_the_images_are_processed_alike(
    redis_url: str, policy: str, trainer: AsyncClient, monkeypatch: pytest.MonkeyPatch, patch: int, mean: float
) -> None:
    chosen: dict[str, Any] = {"stub_tokens_per_s": 400, "stub_image_token": IMAGE}
    async with serving(redis_url, policy, **chosen) as first:
        batch = await trainer.submit([[5, IMAGE]], config=asked(300), images=[[file_of("png", 30, 20)]])
        await until_true(lambda: min(so_far(first), default=0) >= 20)
        await drained(first)
    monkeypatch.setattr("rollstream.worker.engines.stub_images._PATCH", patch)
    monkeypatch.setattr("rollstream.worker.engines.stub_images._MEAN", mean)
    async with serving(redis_url, policy, **chosen):
        (group,) = [group async for group in batch.groups(timeout=30)]

    assert isinstance(group, GroupResult)
    assert group.image_spans[0].length == {16: 5, 8: 13}[patch]
    assert (group.resumed_at is not None) == ((patch, mean) == (16, 0.5))
