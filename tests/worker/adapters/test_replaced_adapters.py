"""A name stands for what Redis has under it now; what runs keeps what it began with; what is kept needs no Redis."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest
from redis.asyncio import Redis

from rollstream import Client
from rollstream.producer.demo.tiny_model import write_adapter
from rollstream.schemas import AdapterManifest, ErrorCode, GroupResult, Keys, decode
from rollstream.worker.adapters.folder import AdapterFolder
from rollstream.worker.adapters.store import AdapterStore
from rollstream.worker.adapters.supply import AdapterSupply
from rollstream.worker.cache_folder import CacheFolder
from rollstream.worker.errors import DataError
from rollstream.worker.redis_io.connections import connect
from tests.support.adapter_steps import SIZE, RecordingEngine, expire, on_disk, put
from tests.support.fault_steps import stub, tokens, wait_until_done
from tests.support.faults import Link, Queue, audit


def content(folder: Path | None) -> bytes:
    assert folder is not None
    return (folder / "adapter_model.safetensors").read_bytes()[:3]


async def test_other_content_under_a_kept_name_is_fetched_beside_what_still_runs(
    redis: Redis, policy: str, cache: CacheFolder
) -> None:
    keys = Keys(policy)
    store = AdapterStore(redis=redis, keys=keys, cache=cache, max_bytes=SIZE, cache_bytes=2 * SIZE + 100)
    first = await put(redis, keys, "math@1", "old")
    with store.in_use("math@1"):
        old = await store.fetch("math@1")
        await expire(redis, keys, first)
        await put(redis, keys, "math@1", "new")

        with store.in_use("math@1"):
            new = await store.fetch("math@1")
            assert (content(old), content(new)) == (b"old", b"new")
            assert await store.fetch("math@1") == new
            await put(redis, keys, "code@1")
            await store.fetch("code@1")
            assert on_disk(cache) == ["code@1", "math@1", "math@1"], "one that is in use was evicted"
        await put(redis, keys, "code@2")
        await store.fetch("code@2")
        assert content(old) == b"old", "evicted although who came before the other content still runs"
        assert store.holds(old or Path())

    await put(redis, keys, "code@3")
    await store.fetch("code@3")

    assert not store.holds(old or Path())
    assert not (old or Path()).exists()


async def test_what_was_replaced_and_nobody_uses_is_the_first_to_go(
    redis: Redis, policy: str, cache: CacheFolder
) -> None:
    keys = Keys(policy)
    store = AdapterStore(redis=redis, keys=keys, cache=cache, max_bytes=SIZE, cache_bytes=3 * SIZE + 100)
    await put(redis, keys, "code@1")
    await store.fetch("code@1")
    manifest = await put(redis, keys, "math@1", "old")
    old = await store.fetch("math@1")
    await expire(redis, keys, manifest)
    await put(redis, keys, "math@1", "new")
    await store.fetch("math@1")

    await put(redis, keys, "code@2")
    await store.fetch("code@2")

    assert on_disk(cache) == ["code@1", "code@2", "math@1"]
    assert not (old or Path()).exists()


async def test_what_is_kept_is_used_when_redis_has_it_no_more_or_is_away(
    redis: Redis, policy: str, cache: CacheFolder, link: Link
) -> None:
    keys = Keys(policy)
    async with connect(link.url) as harmed:
        store = AdapterStore(redis=harmed, keys=keys, cache=cache, max_bytes=SIZE, cache_bytes=10 * SIZE)
        manifest = await put(redis, keys, "math@1")
        folder = await store.fetch("math@1")

        await expire(redis, keys, manifest)
        assert await store.fetch("math@1") == folder
        assert await redis.exists(keys.adapter("math@1")) == 0, "a worker published"
        link.drop()
        assert await store.fetch("math@1") == folder
        link.restore()
        await put(redis, keys, "math@1", "new")
        assert content(await store.fetch("math@1")) == b"new"


async def test_jobs_of_one_moment_ask_once_for_the_manifest_of_what_is_kept(
    redis: Redis, policy: str, cache: CacheFolder, link: Link
) -> None:
    keys = Keys(policy)
    async with connect(link.url) as watched:
        store = AdapterStore(redis=watched, keys=keys, cache=cache, max_bytes=SIZE, cache_bytes=10 * SIZE)
        await put(redis, keys, "math@1")
        folder = await store.fetch("math@1")
        link.requests = bytearray()

        assert set(await asyncio.gather(*(store.fetch("math@1") for _ in range(20)))) == {folder}

        assert link.requests.count(b"\r\nGET\r\n") == 1
        assert b"GETRANGE" not in link.requests


async def test_other_content_has_an_id_of_its_own_and_what_was_evicted_leaves_the_engine(
    redis: Redis, policy: str, cache: CacheFolder, tiny_model: Path, tmp_path: Path, client: Client
) -> None:
    folders = [write_adapter(tmp_path / str(seed), "a@1", model=tiny_model, seed=seed) for seed in (1, 2, 3)]
    size = sum(path.stat().st_size for path in folders[0].iterdir())
    engine, keys = RecordingEngine(), Keys(policy)
    store = AdapterStore(redis=redis, keys=keys, cache=cache, max_bytes=2**30, cache_bytes=2 * size)
    supply = AdapterSupply(engine=engine, folder=AdapterFolder(root=None, max_rank=16, model=tiny_model), store=store)

    async def publish(seed: int) -> None:
        there = await redis.get(keys.adapter("math@1"))
        if there is not None:
            await expire(redis, keys, decode(cast("bytes", there), AdapterManifest))
        await asyncio.to_thread(client.publish_adapter, "math", 1, folders[seed - 1])

    ids = []
    for seed in (1, 1, 2, 3):
        await publish(seed)
        with supply.in_use("math@1"):
            found = await asyncio.gather(*(supply.load("math@1") for _ in range(3)))
        ids.append([adapter.int_id for adapter in found])

    assert ids == [[1] * 3, [1] * 3, [2] * 3, [3] * 3]
    assert [adapter.int_id for adapter in engine.loaded] == [2, 3]


async def test_one_that_does_not_fit_the_model_is_not_read_by_every_job(
    redis: Redis, policy: str, cache: CacheFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = 0

    class Counting(AdapterFolder):
        def admit(self, name: str, folder: Path) -> object:  # type: ignore[override]
            nonlocal reads
            reads += 1
            return super().admit(name, folder)

    async def refused() -> None:
        found = await asyncio.gather(*(supply.load("math@1") for _ in range(3)), return_exceptions=True)
        assert [isinstance(one, DataError) and one.code for one in found] == [ErrorCode.ADAPTER_REFUSED] * 3

    keys = Keys(policy)
    store = AdapterStore(redis=redis, keys=keys, cache=cache, max_bytes=SIZE, cache_bytes=10 * SIZE)
    supply = AdapterSupply(engine=RecordingEngine(), folder=Counting(root=None, max_rank=16, model=None), store=store)
    await put(redis, keys, "math@1")

    await refused()
    await refused()
    assert reads == 1
    monkeypatch.setattr("rollstream.worker.adapters.supply.AGAIN_S", -1)
    await put(redis, keys, "math@1", "other")
    await refused()
    await refused()
    assert reads == 3


def test_jobs_after_another_publish_of_a_name_are_sampled_with_it(
    redis_url: str, policy: str, client: Client, queue: Queue, adapter_dir: Path, tiny_model: Path
) -> None:
    with stub(redis_url, policy, "--lora", "--model", str(tiny_model)) as worker:
        for folder in ("math@1", "math@2"):
            name = client.publish_adapter("math", 1, adapter_dir / folder)
            batch = client.submit([[5], [6]], None, tokens(), adapter=name, prompts_per_job=1)
            wait_until_done(queue, batch.batch_id, 2, worker)
            answers = audit(redis_url, policy, batch.batch_id, 2)
            assert [isinstance(answer, GroupResult) for answer in answers] == [True, True]
            manifest = decode(cast("bytes", queue.redis.get(queue.keys.adapter(name))), AdapterManifest)
            chunks = [queue.keys.blob(manifest.sha256, number) for number in range(manifest.chunks)]
            queue.redis.delete(queue.keys.adapter(name), *chunks)
        assert worker.log.count("adapter fetched") == 2
