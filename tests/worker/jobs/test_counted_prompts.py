"""A worker counts a group by its prompt with all images, as soon as it has them."""

from __future__ import annotations

from typing import Any

import pytest

from rollstream import AsyncClient, GenerationConfig
from rollstream.schemas.wire.routing import rows_of
from rollstream.schemas.wire.sizes.result_size import result_bytes
from tests.support.images.pictures import file_of
from tests.support.partials.partial_steps import serving
from tests.support.worker_process import until_true

IMAGE = 9
CONFIG = GenerationConfig(max_new_tokens=200, routed_experts=True)


@pytest.mark.usefixtures("short_reads")
async def test_a_group_with_images_counts_as_its_expanded_prompt(
    redis_url: str, policy: str, trainer: AsyncClient
) -> None:
    offers: dict[str, Any] = {
        "stub_image_token": IMAGE,
        "routed_experts": True,
        "max_model_len": 2000,
    }
    async with serving(redis_url, policy, keep_partials=0, stub_tokens_per_s=50, **offers) as worker:
        batch = await trainer.submit([[5, IMAGE]], None, CONFIG, images=[[file_of("png", 300, 200)]])
        engine: Any = worker._engine
        await until_true(lambda: bool(engine._samplings))
        load, sizes = worker._admission.load, worker._runner.sizes
        payload = worker._admission._payloads
        await batch.cancel()

    expanded = 1 + 1 + 19 * 13
    assert sizes.row_bytes > 0
    assert load.nbytes - payload == (
        result_bytes(CONFIG, expanded - 2) + sizes.row_bytes * rows_of(expanded, CONFIG.max_new_tokens)
    )
