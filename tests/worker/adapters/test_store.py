"""Adapters through Redis: whole and verified or not at all, bounded on disk, never taken from what uses them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest
from redis.asyncio import Redis

from rollstream.schemas import ErrorCode, Keys, encode
from rollstream.schemas.times import ADAPTER_TTL_S
from rollstream.worker.adapters.store import AdapterStore
from rollstream.worker.cache_folder import CacheFolder
from rollstream.worker.errors import DataError, SettingsError
from rollstream.worker.redis_io.connections import connect
from tests.support.adapter_steps import CONFIG, SIZE, on_disk, put
from tests.support.faults import Link


@pytest.fixture
async def store(redis: Redis, policy: str, cache: CacheFolder) -> AsyncIterator[AdapterStore]:
    """Holds two adapters of `SIZE`."""
    store = AdapterStore(redis=redis, keys=Keys(policy), cache=cache, max_bytes=SIZE, cache_bytes=2 * SIZE + 100)
    yield store
    await store.close()


async def refusal(store: AdapterStore, name: str) -> str:
    with pytest.raises(DataError) as raised:
        await store.fetch(name)
    assert (raised.value.code, raised.value.field) == (ErrorCode.ADAPTER_REFUSED, "adapter")
    return raised.value.message


async def test_what_was_published_lies_on_disk_byte_for_byte(redis: Redis, policy: str, store: AdapterStore) -> None:
    await put(redis, Keys(policy), "math@1")

    folder = await store.fetch("math@1")

    assert folder is not None
    assert (folder / "adapter_config.json").read_bytes() == CONFIG
    assert (folder / "adapter_model.safetensors").read_bytes() == (b"math@1" * SIZE)[:SIZE]
    assert await store.fetch("math@1") == folder
    assert await store.fetch("math@2") is None
    assert await store.fetch("../math@1") is None


async def test_what_is_not_whole_is_refused_leaves_nothing_and_may_come_right(
    redis: Redis, policy: str, store: AdapterStore, cache: CacheFolder
) -> None:
    keys = Keys(policy)
    manifest = await put(redis, keys, "math@1")
    second = keys.blob(manifest.sha256, 1)
    whole = cast("bytes", await redis.get(second))

    await redis.set(second, whole[1:])
    assert "chunk 1 of 3 is too short" in await refusal(store, "math@1")
    await redis.delete(second)
    assert "chunk 1 of 3 is gone; publish it again" in await refusal(store, "math@1")
    await redis.lpush(second, "x")
    assert "something else" in await refusal(store, "math@1")
    assert on_disk(cache) == []

    await redis.delete(second)
    await redis.set(second, whole)
    assert await store.fetch("math@1") is not None


async def test_bytes_that_do_not_match_their_digest_are_not_fetched_by_every_job(
    redis: Redis, policy: str, cache: CacheFolder, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetched() -> int:
        return cast("bytearray", link.requests).count(b"GETRANGE")

    keys = Keys(policy)
    chunk = keys.blob((await put(redis, keys, "math@1")).sha256, 2)
    whole = cast("bytes", await redis.get(chunk))
    await redis.set(chunk, whole[:-1] + b"x")
    async with connect(link.url) as watched:
        store = AdapterStore(redis=watched, keys=keys, cache=cache, max_bytes=SIZE, cache_bytes=10 * SIZE)
        await watched.ping()
        link.requests = bytearray()

        for _ in range(4):
            assert "do not match its digest" in await refusal(store, "math@1")
        assert (fetched(), on_disk(cache)) == (3, [])
        await put(redis, keys, "math@2")
        assert await store.fetch("math@2") is not None

        link.requests.clear()
        await put(redis, keys, "math@1", published_at=1.0)
        assert await store.fetch("math@1") is not None, "what was published again was not tried at once"

        monkeypatch.setattr("rollstream.worker.adapters.store.AGAIN_S", -1)
        other = keys.blob((await put(redis, keys, "math@3")).sha256, 0)
        await redis.setrange(other, 0, b"x")
        link.requests.clear()
        for _ in range(2):
            assert "do not match its digest" in await refusal(store, "math@3")
        assert fetched() == 6, "not tried again in time"
        await store.close()


async def test_a_chunk_that_is_too_long_is_not_read_further_than_the_manifest_says(
    redis: Redis, policy: str, store: AdapterStore
) -> None:
    manifest = await put(redis, Keys(policy), "math@1")
    await redis.append(Keys(policy).blob(manifest.sha256, 2), "x" * 10_000)

    folder = await store.fetch("math@1")

    assert folder is not None
    assert (folder / "adapter_model.safetensors").stat().st_size == SIZE


@pytest.mark.keys_by_hand
async def test_a_manifest_that_cannot_be_is_refused_unread(
    redis: Redis, policy: str, store: AdapterStore, cache: CacheFolder
) -> None:
    keys = Keys(policy)
    await put(redis, keys, "math@1", num_bytes=SIZE + 1)
    assert f"{SIZE + 1} bytes exceed the worker's --max-adapter-bytes {SIZE}" in await refusal(store, "math@1")
    await put(redis, keys, "math@2")
    await redis.rename(keys.adapter("math@2"), keys.adapter("math@3"))
    assert "that of 'math@2'" in await refusal(store, "math@3")
    await redis.set(keys.adapter("math@4"), b"garbage")
    assert "cannot be read" in await refusal(store, "math@4")
    await redis.lpush(keys.adapter("math@5"), "x")
    assert "something else" in await refusal(store, "math@5")
    scattered = (await put(redis, keys, "math@6")).model_copy(update={"num_bytes": 2**17, "chunk_bytes": 1})
    await redis.set(keys.adapter("math@6"), encode(scattered))
    assert "131072 chunks" in await refusal(store, "math@6")
    assert on_disk(cache) == []


async def test_who_waits_for_the_same_adapter_shares_one_fetch_and_its_failure(
    redis: Redis, redis_url: str, policy: str, cache: CacheFolder, link: Link
) -> None:
    manifest = await put(redis, Keys(policy), "math@1")
    slow = connect(link.url)
    store = AdapterStore(redis=slow, keys=Keys(policy), cache=cache, max_bytes=SIZE, cache_bytes=10 * SIZE)
    await slow.ping()
    link.requests = bytearray()
    link.freeze()
    waiting = [asyncio.create_task(store.fetch("math@1")) for _ in range(4)]
    await asyncio.sleep(0.05)
    waiting[0].cancel()  # who goes takes nothing from the others
    link.thaw()

    found = await asyncio.gather(*waiting, return_exceptions=True)

    assert isinstance(found[0], asyncio.CancelledError)
    assert found[1] == found[2] == found[3] is not None
    assert link.requests.count(b"GETRANGE") == manifest.chunks

    await put(redis, Keys(policy), "math@2")
    await redis.delete(Keys(policy).blob((await put(redis, Keys(policy), "math@2")).sha256, 0))
    failed = await asyncio.gather(*(store.fetch("math@2") for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in failed] == [DataError] * 3
    await put(redis, Keys(policy), "math@2")
    assert await store.fetch("math@2") is not None
    await store.close()
    await slow.aclose()


async def test_the_least_recently_used_go_so_that_the_bound_is_kept(
    redis: Redis, policy: str, store: AdapterStore, cache: CacheFolder
) -> None:
    for version in range(1, 5):
        await put(redis, Keys(policy), f"math@{version}")
    first = await store.fetch("math@1")
    await store.fetch("math@2")
    assert await store.fetch("math@1") == first

    await store.fetch("math@3")

    assert on_disk(cache) == ["math@1", "math@3"]
    await asyncio.gather(store.fetch("math@2"), store.fetch("math@4"))
    assert on_disk(cache) == ["math@2", "math@4"]
    assert await store.fetch("math@1") not in (None, first), "a folder was used twice"


async def test_what_is_in_use_is_never_evicted_whatever_the_bound(
    redis: Redis, policy: str, store: AdapterStore, cache: CacheFolder
) -> None:
    for version in range(1, 6):
        await put(redis, Keys(policy), f"math@{version}")
    with store.in_use("math@1"), store.in_use("math@2"), store.in_use("math@2"):
        with store.in_use("math@1"):
            await store.fetch("math@1")
        await store.fetch("math@2")
        await store.fetch("math@3")
        assert on_disk(cache) == ["math@1", "math@2", "math@3"]
        await store.fetch("math@4")
        assert on_disk(cache) == ["math@1", "math@2", "math@4"]

    await store.fetch("math@5")

    assert on_disk(cache) == ["math@4", "math@5"]


async def test_what_is_used_is_renewed_in_redis(
    redis: Redis, policy: str, store: AdapterStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ttls() -> list[int]:
        chunks = [keys.blob(manifest.sha256, number) for number in range(3)]
        return [await redis.ttl(key) for key in (keys.adapter("math@1"), *chunks)]

    keys = Keys(policy)
    manifest = await put(redis, keys, "math@1")
    await store.fetch("math@1")
    of_manifest, *of_chunks = await ttls()
    assert 1000 < of_manifest <= ADAPTER_TTL_S < min(of_chunks), "not renewed by its first use"
    await redis.expire(keys.adapter("math@1"), 1000)
    await store.fetch("math@1")
    await store.renew("math@1")
    assert (await ttls())[0] <= 1000, "renewed although that was not due"
    monkeypatch.setattr("rollstream.worker.adapters.store.ADAPTER_RENEW_S", -1)
    await put(redis, keys, "math@2")
    await store.fetch("math@2")
    await redis.expire(keys.adapter("math@2"), 1000)

    await store.fetch("math@2")

    assert await redis.ttl(keys.adapter("math@2")) > 1000, "not renewed although that was due"


def test_a_cache_goes_with_its_worker_and_with_the_next_one_if_that_was_killed(tmp_path: Path) -> None:
    killed, living, other = CacheFolder(tmp_path), CacheFolder(tmp_path), tmp_path / "other"
    other.mkdir()
    killed.open()
    living.open()
    os.close(killed._lock)  # which is what is left of a process after SIGKILL
    (killed.folder / "math@1").mkdir()

    CacheFolder(tmp_path).open()

    assert not killed.folder.exists()
    assert (living.folder.is_dir(), other.is_dir()) == (True, True)
    living.close()
    assert not living.folder.exists()


def test_what_exceeds_the_whole_disk_is_told_from_what_does_not_fit_now(cache: CacheFolder) -> None:
    assert [cache.can_ever_hold(nbytes) for nbytes in (1, 2**62)] == [True, False]


def test_a_cache_that_cannot_be_made_names_the_flag(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(SettingsError, match="--adapter-cache"):
        CacheFolder(tmp_path / "file").open()
