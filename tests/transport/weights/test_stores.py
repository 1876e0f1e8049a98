"""A folder, Redis and a URL keep the same promises."""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from rollstream.schemas import Keys, NameRefusedError
from rollstream.transport.weights import PlainCall, StoreProblem, WeightStore, WeightStoreError, store_of
from rollstream.transport.weights.files import FileStore

CHUNK, OTHER, MANIFEST = "a" * 64, "b" * 64, f"7-{'c' * 16}"


@pytest.fixture(params=["folder", "redis", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path, redis: Redis, policy: str) -> WeightStore:
    places = {"folder": str(tmp_path), "redis": "redis", "memory": f"memory://{uuid.uuid4().hex}"}
    return store_of(places[request.param], Keys(policy), PlainCall(redis))


async def test_an_item_comes_back_and_is_listed(store: WeightStore) -> None:
    await store.put(CHUNK, b"some weights")
    await store.put(MANIFEST, b"a manifest")

    assert await store.get(CHUNK, 100) == b"some weights"
    assert {one.name: one.num_bytes for one in await store.items()} == {CHUNK: 12, MANIFEST: 10}
    assert await store.sizes([CHUNK, OTHER]) == {CHUNK: 12}


async def test_an_empty_store_lists_nothing(store: WeightStore) -> None:
    assert await store.items() == []
    assert await store.sizes([CHUNK]) == {}


async def test_an_item_is_replaced(store: WeightStore) -> None:
    await store.put(CHUNK, b"long content")
    await store.put(CHUNK, b"short")

    assert await store.get(CHUNK, 100) == b"short"
    assert [one.num_bytes for one in await store.items()] == [5]


async def test_what_is_missing_is_said_to_be_missing(store: WeightStore) -> None:
    with pytest.raises(WeightStoreError, match=f"cannot read {CHUNK}.*the next anchor brings") as caught:
        await store.get(CHUNK, 100)
    assert caught.value.reason is StoreProblem.MISSING
    assert not caught.value.passes


async def test_an_item_larger_than_announced_is_refused(store: WeightStore) -> None:
    await store.put(CHUNK, bytes(1000))

    with pytest.raises(WeightStoreError, match="1000 bytes, at most 999 were announced") as caught:
        await store.get(CHUNK, 999)
    assert caught.value.reason is StoreProblem.BROKEN


async def test_removed_items_are_gone_and_removing_them_twice_is_no_error(store: WeightStore) -> None:
    await store.put(CHUNK, b"1")
    await store.put(OTHER, b"2")

    await store.delete([CHUNK, MANIFEST])
    await store.delete([CHUNK])
    await store.renew([OTHER])

    assert [one.name for one in await store.items()] == [OTHER]


@pytest.mark.parametrize("name", ["../x", "a/b", f"{CHUNK}/..", "", "7-xyz", f"07-{'c' * 16}", CHUNK.upper(), "bytes"])
async def test_a_name_that_no_item_has_is_refused(store: WeightStore, name: str) -> None:
    for call in (store.put(name, b""), store.get(name, 1), store.delete([name]), store.sizes([name])):
        with pytest.raises(NameRefusedError):
            await call


async def test_items_tell_when_they_were_written(store: WeightStore) -> None:
    await store.put(CHUNK, b"1")
    await store.put(OTHER, b"2")

    first, second = (await store.items())[0].changed_at, (await store.items())[1].changed_at

    assert first is not None
    assert second is not None
    assert abs(first - second) < 60


async def test_two_policies_do_not_share_a_folder(tmp_path: Path) -> None:
    one, other = (store_of(tmp_path, Keys(policy)) for policy in ("one", "other"))
    await one.put(CHUNK, b"1")

    assert await other.items() == []


async def test_a_write_that_fails_leaves_the_item_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(tmp_path, Keys("p"))
    await store.put(CHUNK, b"whole")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rollstream.transport.weights.folder.os.fsync", full)
    with pytest.raises(WeightStoreError, match="No space left on device; make room") as caught:
        await store.put(CHUNK, b"half")

    assert caught.value.reason is StoreProblem.FULL
    assert await store.get(CHUNK, 10) == b"whole"
    assert [path.name for path in (tmp_path / "p" / "chunks").iterdir()] == [CHUNK]


async def test_a_folder_that_may_not_be_written_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of(tmp_path, Keys("p"))

    def denied(*_args: Any, **_more: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(WeightStoreError, match="Permission denied; give this user the right") as caught:
        await store.put(CHUNK, b"1")
    assert caught.value.reason is StoreProblem.REFUSED


async def test_a_store_that_does_not_answer_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    store, blocked = store_of(tmp_path, Keys("p")), threading.Event()
    monkeypatch.setattr("rollstream.transport.weights.files._CALL_S", 0.05)
    monkeypatch.setattr(Path, "stat", lambda *_: blocked.wait(30))

    with pytest.raises(WeightStoreError, match="did not answer in time") as caught:
        await store.get(CHUNK, 1)
    blocked.set()

    assert caught.value.passes


@pytest.mark.parametrize("kind", ["pipe", "device"])
async def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    store = store_of(tmp_path, Keys("p"))
    await store.put(OTHER, b"1")
    item = tmp_path / "p" / "chunks" / CHUNK
    if kind == "pipe":
        os.mkfifo(item)
    else:
        item.symlink_to("/dev/zero")

    async with asyncio.timeout(10):
        with pytest.raises(WeightStoreError, match=f"it is a {kind}, not a regular file") as caught:
            await store.get(CHUNK, 100)

    assert caught.value.reason is StoreProblem.BROKEN


async def test_a_file_that_grows_while_it_is_read_is_read_no_further_than_announced(
    store: WeightStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put(CHUNK, bytes(1000))
    if not isinstance(store, FileStore):
        pytest.skip("Redis gives size and bytes in one call")
    read: list[int] = []
    files = store._files
    bounded = files.read

    def watched(name: str, most: int) -> bytes:
        data = bounded(name, most)
        read.append(len(data))
        return data

    monkeypatch.setattr(files, "size", lambda _: 5)
    monkeypatch.setattr(files, "read", watched)

    with pytest.raises(WeightStoreError, match="more bytes than its size says, at most 7 were announced") as caught:
        await store.get(CHUNK, 7)

    assert caught.value.reason is StoreProblem.BROKEN
    assert read == [8]


async def test_errors_of_a_library_show_no_text_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_of("memory://bucket", Keys("p"))

    def failing(*_args: object) -> None:
        raise RuntimeError("https://bucket/x?X-Amz-Signature=SECRET")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.pipe_file", failing)
    with pytest.raises(WeightStoreError, match="memory://bucket: RuntimeError; ") as caught:
        await store.put(CHUNK, b"1")
    assert "SECRET" not in str(caught.value)


async def test_redis_refuses_what_exceeds_the_quota_and_keeps_the_rest(redis: Redis, policy: str) -> None:
    store = store_of("redis", Keys(policy), PlainCall(redis), quota_bytes=100)
    await store.put(CHUNK, bytes(60))

    with pytest.raises(WeightStoreError, match="would hold 101 bytes, and its quota is 100; raise the quota") as caught:
        await store.put(OTHER, bytes(41))

    assert caught.value.reason is StoreProblem.FULL
    assert await store.room() == 40
    await store.put(CHUNK, bytes(100))
    assert await store.room() == 0


async def test_what_expired_in_redis_counts_no_more(redis: Redis, policy: str) -> None:
    keys = Keys(policy)
    store = store_of("redis", keys, PlainCall(redis), quota_bytes=100)
    await store.put(CHUNK, bytes(60))
    await redis.delete(keys.weights_item(CHUNK))

    await store.put(OTHER, bytes(41))

    assert [one.name for one in await store.items()] == [OTHER]
    assert await store.room() == 59


async def test_items_in_redis_expire_unless_they_are_renewed(redis: Redis, policy: str) -> None:
    keys = Keys(policy)
    store = store_of("redis", keys, PlainCall(redis))
    await store.put(CHUNK, b"1")
    for key in (keys.weights(), keys.weights_item(CHUNK)):
        assert 0 < await redis.ttl(key) <= 7 * 86_400
        await redis.expire(key, 100)

    await store.renew([CHUNK])

    assert all([await redis.ttl(key) > 86_400 for key in (keys.weights(), keys.weights_item(CHUNK))])


async def test_foreign_values_in_the_index_are_left_out(redis: Redis, policy: str) -> None:
    keys = Keys(policy)
    store = store_of("redis", keys, PlainCall(redis))
    await store.put(CHUNK, b"1")
    index: Any = redis
    await index.hset(keys.weights(), mapping={OTHER: "x:y", "../etc": "1:2", "bytes": "none"})

    assert [one.name for one in await store.items()] == [CHUNK]
    assert await store.room() is not None


async def test_chunks_fit_what_redis_takes(redis: Redis, policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from rollstream.transport.redis.limits import Limits

    store = store_of("redis", Keys(policy), PlainCall(redis))
    assert await store.chunk_bytes() == 4 * 2**20

    async def limits(_redis: Redis) -> Limits:
        return Limits(argument=2**21, command=2**30)

    monkeypatch.setattr("rollstream.transport.weights.in_redis.read_limits", limits)
    assert await store.chunk_bytes() == 2**21


class Stuck:
    """A file system that does not answer, and never fails."""

    def __init__(self) -> None:
        self.ended = threading.Event()

    def size(self, name: str) -> int:
        self.ended.wait()
        raise FileNotFoundError(name)

    read = write = remove = all = size


async def test_a_file_system_that_hangs_keeps_no_thread_that_others_need() -> None:
    stuck: Any = Stuck()
    store = FileStore(where="/mnt", files=stuck)
    asked = [asyncio.create_task(store.get(f"{number:064x}", 1)) for number in range(64)]
    await asyncio.sleep(0)

    try:
        async with asyncio.timeout(10):
            assert await asyncio.to_thread(lambda: "free") == "free"
    finally:
        stuck.ended.set()
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(error) for error in found} == {WeightStoreError}
