"""Files come from Redis by digest: once for all who ask, verified, kept within a bound; what is missing is said."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from rollstream.schemas import ErrorCode, Keys
from rollstream.schemas.times import MEDIA_TTL_S
from rollstream.schemas.wire.images import ImageRef
from rollstream.worker.errors import DataError
from rollstream.worker.images.files import ImageFiles
from rollstream.worker.images.supply import ImageSupply
from tests.support.images.pictures import file_of

CAT, DOG, COW = file_of("png"), file_of("jpeg", 30, 20), file_of("webp", 9, 9)


def ref(data: bytes, kind: Any = "png", width: int = 6, height: int = 4) -> ImageRef:
    digest = hashlib.sha256(data).hexdigest()
    return ImageRef(sha256=digest, nbytes=len(data), format=kind, width=width, height=height)


@pytest.fixture
def keys(policy: str) -> Keys:
    return Keys(policy)


async def put(redis: Redis, keys: Keys, *files: bytes) -> None:
    for data in files:
        await redis.set(keys.media(ref(data).sha256), data, ex=100)


async def calls(redis: Redis) -> int:
    return int((await redis.info("commandstats")).get("cmdstat_getrange", {}).get("calls", 0))


async def test_all_who_ask_share_one_fetch_and_its_time_to_live_begins_again(redis: Redis, keys: Keys) -> None:
    await put(redis, keys, CAT)
    files, before = ImageFiles(redis=redis, keys=keys, cache_bytes=10_000), await calls(redis)

    found = await asyncio.gather(*(files.read(ref(CAT)) for _ in range(5)))

    assert found == [CAT] * 5
    assert await calls(redis) == before + 1
    assert await redis.ttl(keys.media(ref(CAT).sha256)) > MEDIA_TTL_S - 10


async def test_each_use_lets_a_file_stay_also_from_memory_and_never_shorter(redis: Redis, keys: Keys) -> None:
    await put(redis, keys, CAT)
    files, key = ImageFiles(redis=redis, keys=keys, cache_bytes=10_000), keys.media(ref(CAT).sha256)
    for before, kept_for in ((100, MEDIA_TTL_S), (100, MEDIA_TTL_S), (9 * MEDIA_TTL_S, 9 * MEDIA_TTL_S)):
        await redis.expire(key, before)
        assert await files.read(ref(CAT)) == CAT
        assert kept_for - 10 < await redis.ttl(key) <= kept_for

    await redis.delete(key)
    assert await files.read(ref(CAT)) == CAT
    other = ImageFiles(redis=redis, keys=keys, cache_bytes=10_000)
    with pytest.raises(DataError, match=r"or later with its session, or was removed\. Submit a prompt with") as raised:
        await other.read(ref(CAT))
    assert raised.value.code is ErrorCode.IMAGE_MISSING


async def test_a_file_that_only_this_worker_has_is_told_once_each_time_that_it_is_gone(
    redis: Redis, keys: Keys
) -> None:
    await put(redis, keys, CAT)
    files, key = ImageFiles(redis=redis, keys=keys, cache_bytes=10_000), keys.media(ref(CAT).sha256)
    told: list[int] = []

    with capture_logs() as said:
        for is_there in (True, False, False, True, False):
            await (put(redis, keys, CAT) if is_there else redis.delete(key))
            await files.read(ref(CAT))
            await files.read(ref(CAT))
            told.append(len(said))

    assert told == [0, 1, 1, 1, 2]
    assert said[0]["event"] == "image gone from Redis, served from memory"
    assert (said[0]["log_level"], said[0]["sha256"]) == ("warning", ref(CAT).sha256)


async def test_the_oldest_files_make_room(redis: Redis, keys: Keys) -> None:
    await put(redis, keys, CAT, DOG, COW)
    files = ImageFiles(redis=redis, keys=keys, cache_bytes=len(DOG) + len(COW))

    for data in (CAT, DOG, COW):
        await files.read(ref(data))
    kept = files.nbytes
    await redis.delete(*(keys.media(ref(data).sha256) for data in (CAT, DOG, COW)))

    assert kept == len(DOG) + len(COW)
    assert await files.read(ref(COW)) == COW
    with pytest.raises(DataError) as raised:
        await files.read(ref(CAT))
    assert raised.value.code is ErrorCode.IMAGE_MISSING


async def test_other_bytes_than_the_digest_says_are_refused(redis: Redis, keys: Keys) -> None:
    files = ImageFiles(redis=redis, keys=keys, cache_bytes=10_000)
    key = keys.media(ref(CAT).sha256)

    for other in (DOG, CAT[:-1], CAT + b"x"):
        await redis.set(key, other, ex=100)
        with pytest.raises(DataError, match="not those of image") as raised:
            await files.read(ref(CAT))
        assert raised.value.code is ErrorCode.IMAGE_REFUSED
    await redis.delete(key)
    await redis.lpush(key, "x")
    await redis.expire(key, 100)
    with pytest.raises(DataError, match="something else"):
        await files.read(ref(CAT))

    await redis.delete(key)
    await put(redis, keys, CAT)
    assert await files.read(ref(CAT)) == CAT


async def test_an_error_names_the_image_that_has_it(redis: Redis, keys: Keys) -> None:
    await put(redis, keys, CAT)
    supply = ImageSupply(files=ImageFiles(redis=redis, keys=keys, cache_bytes=0), max_pixels=1000)

    with pytest.raises(DataError) as raised:
        await supply.pictures([ref(CAT), ref(DOG, "jpeg", 30, 20)])

    assert (raised.value.code, raised.value.field) == (ErrorCode.IMAGE_MISSING, "images[1]")
    assert [one.pixels.shape for one in await supply.pictures([ref(CAT)] * 2)] == [(4, 6, 3)] * 2
