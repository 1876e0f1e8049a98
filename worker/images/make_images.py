"""Makes the objects of this room; `jobs.make_runner` calls it, and nothing else does."""

from __future__ import annotations

from redis.asyncio import Redis

from rollstream.schemas import Keys

from ..config import WorkerSettings
from .files import ImageFiles
from .supply import ImageSupply


def make_images(*, settings: WorkerSettings, redis: Redis, keys: Keys) -> ImageSupply:
    """Where a worker's jobs get the images from that they name."""
    files = ImageFiles(redis=redis, keys=keys, cache_bytes=settings.image_cache_bytes)
    return ImageSupply(files=files, max_pixels=settings.max_image_pixels)
