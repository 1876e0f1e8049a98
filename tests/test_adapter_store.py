"""Adapters through Redis: whole and verified or not at all, bounded on disk, never taken from what uses them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import cast

import pytest
from redis.asyncio import Redis

from producer import AsyncClient, Client
from producer.tiny_model import write_adapter
from schemas import AdapterManifest, ErrorCode, GroupResult, Keys, decode, encode
from tests.adapter_steps import CONFIG, SIZE, RecordingEngine, on_disk, put
from tests.fault_steps import stub, tokens, wait_until_done, wait_until_held, wait_until_logged
from tests.faults import Link, Queue, audit
from tests.versions import (
    announce,
    codes,
    report,
    spans,
    wait_until_refused,
    wait_until_reported,
    wait_until_serves,
    write_steps,
)
from tests.worker_process import until, wait_for
from worker.adapter_cache import AdapterCache
from worker.adapter_store import TTL_S, AdapterStore
from worker.adapter_supply import AdapterSupply
from worker.adapters import AdapterDirectory
from worker.connections import connect
from worker.engine import Adapter
from worker.errors import DataError, SettingsError
from worker.policy import Policy


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[AdapterCache]:
    cache = AdapterCache(tmp_path / "cache")
    cache.open()
    yield cache
    cache.close()


@pytest.fixture
async def store(redis: Redis, policy: str, cache: AdapterCache) -> AsyncIterator[AdapterStore]:
    """Holds two adapters of `SIZE`."""
    store = AdapterStore(redis, Keys(policy), cache, max_bytes=SIZE, cache_bytes=2 * SIZE + 100)
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
    redis: Redis, policy: str, store: AdapterStore, cache: AdapterCache
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
    redis: Redis, policy: str, cache: AdapterCache, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetched() -> int:
        return cast("bytearray", link.requests).count(b"GETRANGE")

    keys = Keys(policy)
    chunk = keys.blob((await put(redis, keys, "math@1")).sha256, 2)
    whole = cast("bytes", await redis.get(chunk))
    await redis.set(chunk, whole[:-1] + b"x")
    async with connect(link.url) as watched:
        store = AdapterStore(watched, keys, cache, SIZE, 10 * SIZE)
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

        monkeypatch.setattr("worker.adapter_store.AGAIN_S", -1)
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


async def test_a_manifest_that_cannot_be_is_refused_unread(
    redis: Redis, policy: str, store: AdapterStore, cache: AdapterCache
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
    redis: Redis, redis_url: str, policy: str, cache: AdapterCache, link: Link
) -> None:
    manifest = await put(redis, Keys(policy), "math@1")
    slow = connect(link.url)
    store = AdapterStore(slow, Keys(policy), cache, SIZE, 10 * SIZE)
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
    redis: Redis, policy: str, store: AdapterStore, cache: AdapterCache
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
    redis: Redis, policy: str, store: AdapterStore, cache: AdapterCache
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
    assert 1000 < of_manifest <= TTL_S < min(of_chunks), "not renewed by its first use"
    await redis.expire(keys.adapter("math@1"), 1000)
    await store.fetch("math@1")
    await store.renew("math@1")
    assert (await ttls())[0] <= 1000, "renewed although that was not due"
    monkeypatch.setattr("worker.adapter_store.RENEW_S", -1)
    await put(redis, keys, "math@2")
    await store.fetch("math@2")
    await redis.expire(keys.adapter("math@2"), 1000)

    await store.fetch("math@2")

    assert await redis.ttl(keys.adapter("math@2")) > 1000, "not renewed although that was due"


def test_a_cache_goes_with_its_worker_and_with_the_next_one_if_that_was_killed(tmp_path: Path) -> None:
    killed, living, other = AdapterCache(tmp_path), AdapterCache(tmp_path), tmp_path / "other"
    other.mkdir()
    killed.open()
    living.open()
    os.close(killed._lock)  # which is what is left of a process after SIGKILL
    (killed.folder / "math@1").mkdir()

    AdapterCache(tmp_path).open()

    assert not killed.folder.exists()
    assert (living.folder.is_dir(), other.is_dir()) == (True, True)
    living.close()
    assert not living.folder.exists()


def test_what_exceeds_the_whole_disk_is_told_from_what_does_not_fit_now(cache: AdapterCache) -> None:
    assert [cache.can_ever_hold(nbytes) for nbytes in (1, 2**62)] == [True, False]


def test_a_cache_that_cannot_be_made_names_the_flag(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(SettingsError, match="--adapter-cache"):
        AdapterCache(tmp_path / "file").open()


async def test_an_evicted_adapter_leaves_the_engine_and_comes_back_under_a_fresh_id(
    redis: Redis, policy: str, cache: AdapterCache, tiny_model: Path, tmp_path: Path, client: Client
) -> None:
    folder = write_adapter(tmp_path, "math@1", model=tiny_model, seed=1)
    size = sum(path.stat().st_size for path in folder.iterdir())
    for version in (1, 2, 3):
        client.publish_adapter("math", version, folder)
    engine, directory = RecordingEngine(), AdapterDirectory(None, 16, tiny_model)
    store = AdapterStore(redis, Keys(policy), cache, 2**30, 2 * size)
    supply = AdapterSupply(engine, directory, store)

    ids = [(await supply.load(name)).int_id for name in ("math@1", "math@2", "math@1", "math@3", "math@2")]

    assert ids == [1, 2, 1, 3, 4]
    assert [adapter.name for adapter in engine.loaded] == ["math@3", "math@2"]
    assert on_disk(cache) == ["math@2", "math@3"]


class Leaving(RecordingEngine):
    """Unloads nothing until told to."""

    def __init__(self) -> None:
        super().__init__()
        self.told = asyncio.Event()

    async def unload_adapter(self, adapter: Adapter) -> None:
        await self.told.wait()
        await super().unload_adapter(adapter)


async def test_what_was_evicted_leaves_the_engine_although_the_job_that_evicted_it_was_cancelled(
    redis: Redis, policy: str, cache: AdapterCache, tiny_model: Path, tmp_path: Path, client: Client
) -> None:
    folder = write_adapter(tmp_path, "math@1", model=tiny_model, seed=1)
    size = sum(path.stat().st_size for path in folder.iterdir())
    for version in (1, 2):
        client.publish_adapter("math", version, folder)
    engine = Leaving()
    store = AdapterStore(redis, Keys(policy), cache, 2**30, size)
    supply = AdapterSupply(engine, AdapterDirectory(None, 16, tiny_model), store)
    await supply.load("math@1")
    evicting = asyncio.create_task(supply.load("math@2"))
    await until(lambda: asyncio.sleep(0, on_disk(cache) == ["math@2"]))
    evicting.cancel()
    await asyncio.wait([evicting])

    engine.told.set()
    await supply.load("math@2")

    assert [adapter.name for adapter in engine.loaded] == ["math@2"]


async def test_a_local_folder_comes_before_redis(
    redis: Redis, policy: str, store: AdapterStore, adapter_dir: Path, tiny_model: Path
) -> None:
    await put(redis, Keys(policy), "math@1")
    supply = AdapterSupply(RecordingEngine(), AdapterDirectory(adapter_dir, 16, tiny_model), store)

    assert (await supply.load("math@1")).path == (adapter_dir / "math@1").resolve()
    with pytest.raises(DataError) as raised:
        await supply.load("math@1", "0" * 64)
    assert raised.value.code is ErrorCode.ADAPTER_REFUSED


def test_a_job_uses_an_adapter_that_came_through_redis(
    redis_url: str, policy: str, client: Client, queue: Queue, adapter_dir: Path, tiny_model: Path, tmp_path: Path
) -> None:
    flags = ("--model", str(tiny_model), "--adapter-cache", str(tmp_path / "cache"))
    with stub(redis_url, policy, *flags) as worker:
        (folder,) = (tmp_path / "cache").iterdir()
        name = client.publish_adapter("math", 1, adapter_dir / "math@1")
        batch = client.submit([[5 + row] for row in range(6)], None, tokens(), adapter=name, prompts_per_job=1)
        wait_until_done(queue, batch.batch_id, 6, worker)
        plain = client.submit([[5]], None, tokens())
        wait_until_done(queue, plain.batch_id, 1, worker)
        unknown = client.submit([[5]], None, tokens(), adapter="math@2")
        wait_until_done(queue, unknown.batch_id, 1, worker)
        assert worker.log.count("adapter fetched") == 1

    answers = audit(redis_url, policy, batch.batch_id, 6)
    assert {answer.adapter for answer in answers if isinstance(answer, GroupResult)} == {"math@1"}
    assert not folder.exists()
    assert codes(redis_url, queue, unknown.batch_id, 1) == ["unknown_adapter"]


def test_an_adapter_that_cannot_be_used_is_refused_by_reason_and_the_worker_serves_on(
    redis_url: str, policy: str, client: Client, queue: Queue, tiny_model: Path, tmp_path: Path
) -> None:
    def publish(name: str, rank: int = 8) -> AdapterManifest:
        folder = write_adapter(tmp_path / name, "a@1", model=tiny_model, seed=1, rank=rank)
        full = client.publish_adapter(name, 1, folder)
        return decode(cast("bytes", queue.redis.get(queue.keys.adapter(full))), AdapterManifest)

    flags = ("--lora", "--model", str(tiny_model), "--max-adapter-bytes", "300000", "--max-lora-rank", "32")
    with stub(redis_url, policy, *flags) as worker:
        tampered = queue.keys.blob(publish("tampered").sha256, 0)
        chunk = cast("bytes", queue.redis.get(tampered))
        queue.redis.set(tampered, chunk[:-1] + bytes([chunk[-1] ^ 1]))
        publish("large", rank=32)
        other = write_adapter(tmp_path / "other", "a@1", model=tiny_model, seed=1)
        weights = other / "adapter_model.safetensors"
        weights.write_bytes(weights.read_bytes().replace(b"layers.1.", b"layers.7."))
        client.publish_adapter("other", 1, other)
        refused = {
            name: client.submit([[5]], None, tokens(), adapter=f"{name}@1") for name in ("tampered", "large", "other")
        }
        for batch in refused.values():
            wait_until_done(queue, batch.batch_id, 1, worker)
        queue.redis.delete(tampered, queue.keys.adapter("tampered@1"))
        publish("tampered")
        again = client.submit([[5]], None, tokens(), adapter="tampered@1")
        wait_until_done(queue, again.batch_id, 1, worker)
        assert codes(redis_url, queue, again.batch_id, 1) == [None]

    for name, says in {"tampered": "digest", "large": "--max-adapter-bytes", "other": "does not have"}.items():
        (answer,) = audit(redis_url, policy, refused[name].batch_id, 1)
        assert (getattr(answer, "code", None), says in getattr(answer, "message", "")) == ("adapter_refused", True)


def test_the_adapter_of_a_running_job_outlasts_those_that_come_after_it(
    redis_url: str, policy: str, client: Client, queue: Queue, adapter_dir: Path, tiny_model: Path, tmp_path: Path
) -> None:
    def fetched() -> set[str]:
        return {path.parent.name.rpartition(".")[0] for path in tmp_path.glob("*/*/adapter_config.json")}

    size = sum(path.stat().st_size for path in (adapter_dir / "math@1").iterdir())
    bounds = ("--max-adapter-bytes", str(size), "--adapter-cache-bytes", str(size + 1000))
    names = [client.publish_adapter("math", version, adapter_dir / "math@1") for version in (1, 2, 3)]
    flags = ("--adapter-cache", str(tmp_path), "--model", str(tiny_model), *bounds)
    with stub(redis_url, policy, *flags, group_s=0.1, lease_s=30) as worker:
        long = client.submit([[5]], None, tokens(200), adapter=names[0])
        wait_for(lambda: fetched() == {names[0]}, 10, lambda: worker.log)
        for name, left in zip(names[1:], ({names[0], names[1]}, {names[0], names[2]}), strict=True):
            short = client.submit([[5]], None, tokens(1), adapter=name)
            wait_until_done(queue, short.batch_id, 1, worker)
            assert fetched() == left
        assert queue.done(long.batch_id) == 0, "the job was over before the others came"
        wait_until_done(queue, long.batch_id, 1, worker)


def test_a_worker_without_lora_says_how_to_get_it(
    redis_url: str, policy: str, client: Client, queue: Queue, adapter_dir: Path
) -> None:
    name = client.publish_adapter("math", 1, adapter_dir / "math@1")
    with stub(redis_url, policy) as worker:
        batch = client.submit([[5]], None, tokens(), adapter=name)
        wait_until_done(queue, batch.batch_id, 1, worker)

    (answer,) = audit(redis_url, policy, batch.batch_id, 1)
    assert "--lora" in getattr(answer, "message", "")


def test_a_policy_published_as_adapters_changes_what_starts_and_not_what_runs(
    redis_url: str, policy: str, client: Client, queue: Queue, adapter_dir: Path, tiny_model: Path
) -> None:
    flags = ("--lora", "--model", str(tiny_model))
    with stub(redis_url, policy, *flags, group_s=0.1, lease_s=30) as worker:
        booted = client.submit([[5]], None, tokens(100))
        wait_until_held(worker, queue)
        client.publish_policy(1, adapter=adapter_dir / "math@1")
        client.wait_for_version(1, timeout=10)
        first = client.submit([[5]], None, tokens(150))
        wait_until_logged(worker, f"job started                    batch={first.batch_id}")
        client.publish_policy(2, adapter=adapter_dir / "math@2")
        client.wait_for_version(2, timeout=10)
        assert queue.done(first.batch_id) == 0, "it did not live through the change"
        second = client.submit([[5]], None, tokens(150))
        own = client.submit([[5]], None, tokens(), adapter=client.publish_adapter("own", 1, adapter_dir / "code@1"))
        for batch in (booted, first, second, own):
            wait_until_done(queue, batch.batch_id, 1, worker)

    assert spans(redis_url, queue, booted.batch_id, 1) == [((0, 100),)]
    assert spans(redis_url, queue, first.batch_id, 1) == [((1, 150),)]
    assert spans(redis_url, queue, second.batch_id, 1) == [((2, 150),)]
    assert spans(redis_url, queue, own.batch_id, 1) == [((0, 10),)]
    sampled = [audit(redis_url, policy, batch.batch_id, 1)[0] for batch in (first, second)]
    ids = [answer.token_ids.numpy().tolist() for answer in sampled if isinstance(answer, GroupResult)]
    assert ids[0] != ids[1]


def test_a_policys_adapter_is_kept_while_it_is_served_and_loaded_by_who_comes_late(
    redis_url: str, policy: str, client: Client, queue: Queue, adapter_dir: Path, tiny_model: Path, tmp_path: Path
) -> None:
    size = sum(path.stat().st_size for path in (adapter_dir / "math@1").iterdir())
    bounds = ("--max-adapter-bytes", str(size), "--adapter-cache-bytes", str(size + 1000))
    client.publish_policy(1, adapter=adapter_dir / "math@1")
    with stub(redis_url, policy, "--adapter-cache", str(tmp_path), "--model", str(tiny_model), *bounds) as worker:
        assert report(worker, queue)["policy_version"] == "1"
        for version in (1, 2):
            other = client.publish_adapter("other", version, adapter_dir / "code@1")
            batch = client.submit([[5]], None, tokens(), adapter=other)
            wait_until_done(queue, batch.batch_id, 1, worker)
        names = {path.parent.name.partition("@")[0] for path in tmp_path.glob("*/*/adapter_config.json")}
        assert len(names) == 2, "the other adapters were not evicted"
        assert any(name.startswith("policy.") for name in names), "the served policy was evicted"


async def test_a_policys_adapter_is_renewed_in_redis_while_it_is_served(
    redis: Redis,
    redis_url: str,
    policy: str,
    cache: AdapterCache,
    adapter_dir: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys, engine = Keys(policy), RecordingEngine()
    store = AdapterStore(redis, keys, cache, 2**30, 2**30)
    supply = AdapterSupply(engine, AdapterDirectory(None, 16, tiny_model), store)
    async with AsyncClient(redis_url, policy=policy) as client:
        location = (await client.publish_policy(1, adapter=adapter_dir / "math@1")).location
    served = Policy(redis, keys, engine, supply, None, "keep", lambda: None)
    monkeypatch.setattr("worker.adapter_store.RENEW_S", -1)
    await served.begin()
    await redis.expire(keys.adapter(location), 1000)

    await served.look()

    assert served.serving.version == 1
    assert await redis.ttl(keys.adapter(location)) > 1000


def test_a_policys_adapter_that_is_not_what_was_announced_is_refused(
    redis_url: str, policy: str, client: Client, queue: Queue, adapter_dir: Path, tiny_model: Path, tmp_path: Path
) -> None:
    steps = write_steps(tmp_path, 1)
    name = client.publish_adapter("math", 1, adapter_dir / "math@1")
    sha256 = decode(cast("bytes", queue.redis.get(queue.keys.adapter(name))), AdapterManifest).sha256
    flags = ("--lora", "--model", str(tiny_model), "--checkpoint-dir", str(steps))
    with stub(redis_url, policy, *flags) as worker:
        announce(queue, 1, "math@1", "ab" * 32, source="adapter")
        wait_until_refused(worker, queue, 1, "not that which the policy version was announced with")
        announce(queue, 2, "../math@1", sha256, source="adapter")
        wait_until_refused(worker, queue, 2, "'../math@1': nobody published it")
        announce(queue, 3, "nobody@3", sha256, source="adapter")
        wait_until_refused(worker, queue, 3, "nobody published it")
        announce(queue, 4, "math@1", sha256, source="adapter")
        wait_until_serves(worker, queue, 4)
        announce(queue, 5, "step-1")  # which no producer does
        wait_until_refused(worker, queue, 5, "publish one kind only")
        wait_until_reported(worker, queue, policy_version="4")
