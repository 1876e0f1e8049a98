"""What processors make of images takes memory for each sample, and groups wait for it."""

from __future__ import annotations

import asyncio
from typing import Any

from rollstream.schemas.wire.images import ImageRef
from rollstream.worker.jobs.prompts.image_prompts import ImagePrompts

PIXELS = 100 * 100
COPY = 24 * PIXELS
"""Bytes that one sample's request takes of such an image."""
NONE: Any = None


def picture() -> ImageRef:
    return ImageRef(sha256="0" * 64, nbytes=10, format="png", width=100, height=100)


async def most_at_once(max_bytes: int, sequences: list[int], *, images: int = 1) -> int:
    """How many groups were in the room together at most."""
    prompts = ImagePrompts(engine=NONE, images=NONE, max_pixels=1, max_bytes=max_bytes)
    inside = most = 0

    async def group(samples: int) -> None:
        nonlocal inside, most
        async with prompts.room([picture()] * images, samples):
            inside += 1
            most = max(most, inside)
            for _ in range(3):
                await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*map(group, sequences))
    return most


async def test_groups_wait_while_their_images_would_take_too_much() -> None:
    assert await most_at_once(8 * COPY, [4, 4, 4, 4]) == 2


async def test_a_group_that_needs_more_than_there_is_runs_alone() -> None:
    assert await most_at_once(8 * COPY, [16, 1, 16]) == 1


async def test_a_group_without_images_never_waits() -> None:
    assert await most_at_once(1, [4, 4, 4], images=0) == 3
