"""What a policy's users do with images, beside submitting them."""

from __future__ import annotations

import pytest

from rollstream import TooLargeForRedisError
from rollstream.producer.images.given import read_images
from rollstream.producer.images.upload import keep_images
from rollstream.producer.redis_io.connection import Connection
from rollstream.schemas import Keys
from tests.support.faults import Queue
from tests.support.images.pictures import file_of


async def fill_up(connection: Connection, queue: Queue) -> None:
    """An image finds no room, so those that have expired are taken off the index."""
    keys = Keys(queue.keys.policy)
    kept = await read_images([[file_of("png", color=1)]], 1)
    await keep_images(connection, keys, kept)
    for ref in kept.files:
        queue.redis.delete(keys.media(ref.sha256))
    with pytest.raises(TooLargeForRedisError):
        await keep_images(connection, keys, await read_images([[file_of("png", color=2)]], 1, quota_bytes=1))
