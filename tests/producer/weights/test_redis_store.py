"""Redis as the weight store: a quota, no memory left, items that are gone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rollstream import AsyncClient, StoreOptions, WeightStoreError
from rollstream.schemas.hashes.stored_index import TOTAL_FIELD
from rollstream.schemas.weights.delta import MIN_CHUNK_BYTES
from rollstream.transport.weights import StoreProblem
from tests.support.faults import Queue
from tests.support.weights.publishing import announced
from tests.support.weights.weights_store import arrives, state


async def test_redis_carries_weights_too_and_refuses_what_exceeds_its_quota(
    redis_url: str, policy: str, queue: Queue
) -> None:
    small = StoreOptions(place="redis", quota_bytes=50_000, grace_s=0, keep=1)
    async with AsyncClient(redis_url, policy=policy, weights=small) as client:
        first = await client.publish_policy(1, state_dict=state())
        second = await client.publish_policy(2, state_dict=state(a=1))
        with pytest.raises(
            WeightStoreError, match=r"needs about 80000 bytes, and .* are left; raise the quota"
        ) as caught:
            await client.publish_policy(3, state_dict={"a": torch.zeros(20_000)})
        assert caught.value.reason is StoreProblem.FULL
        store = client._weights.store if client._weights is not None else None
        assert store is not None
        assert await arrives(store, second, state(a=1))
    assert [version for _, version in announced(queue)] == [first, second]


async def test_a_full_redis_gives_up_old_versions_before_it_refuses_a_new_one(
    redis_url: str, policy: str, queue: Queue
) -> None:
    weights = StoreOptions(place="redis", quota_bytes=50_000, keep=1, anchor_every=1, grace_s=600)
    async with AsyncClient(redis_url, policy=policy, weights=weights) as client:
        first = await client.publish_policy(1, state_dict=state(a=1))
        _written_before(queue, 300)
        second = await client.publish_policy(2, state_dict=state(a=2))
        third = await client.publish_policy(3, state_dict=state(a=3))
        with pytest.raises(WeightStoreError, match="are left"):  # the others are younger than a minute
            await client.publish_policy(4, state_dict=state(a=4))

        assert client._weights is not None
        names = {one.name for one in await client._weights.store.items()}
    assert names >= {second.location, third.location}
    assert first.location not in names


def _written_before(queue: Queue, seconds: int) -> None:
    """Let all items of the store in Redis be so much older."""
    index: Any = queue.redis
    for name, value in index.hgetall(queue.keys.weights()).items():
        if name != TOTAL_FIELD.encode():
            size, _, at = value.decode().partition(":")
            index.hset(queue.keys.weights(), name, f"{size}:{int(at) - seconds}")


async def test_a_redis_that_was_emptied_gets_all_weights(redis_url: str, policy: str, queue: Queue) -> None:
    async with AsyncClient(redis_url, policy=policy, weights="redis") as client:
        await client.publish_policy(1, state_dict=state())
        keys = list(queue.redis.scan_iter(match=queue.keys.weights() + "*"))
        queue.redis.delete(*keys)

        second = await client.publish_policy(2, state_dict=state(a=1))

        assert client._weights is not None
        assert second.base is None
        assert await arrives(client._weights.store, second, state(a=1))


async def test_a_redis_whose_memory_is_full_is_waited_for_and_then_named(
    redis_url: str, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from redis.exceptions import OutOfMemoryError

    async def full(*_args: object) -> tuple[bool, int]:
        raise OutOfMemoryError("command not allowed when used memory > 'maxmemory'")

    monkeypatch.setattr("rollstream.transport.weights.in_redis.RedisStore._put", full)
    async with AsyncClient(redis_url, policy=policy, weights="redis") as client:
        with pytest.raises(Exception, match="maxmemory"):
            await client.publish_policy(1, state_dict=state())


async def test_a_version_that_turns_out_too_large_leaves_no_part_of_it(
    redis_url: str, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How small zstd makes a version is not known before it is written."""
    pytest.importorskip("zstandard")
    monkeypatch.setattr("rollstream.transport.weights.in_redis.CHUNK_BYTES", MIN_CHUNK_BYTES)
    weights = StoreOptions(place="redis", quota_bytes=5 * MIN_CHUNK_BYTES, compression="zstd")
    noise = torch.randn(2 * MIN_CHUNK_BYTES, generator=torch.Generator().manual_seed(1))  # float32: many chunks
    async with AsyncClient(redis_url, policy=policy, weights=weights) as client:
        first = await client.publish_policy(1, state_dict=state())
        assert client._weights is not None
        store = client._weights.store
        before = sorted(one.name for one in await store.items())

        with pytest.raises(WeightStoreError, match="its quota is") as caught:
            await client.publish_policy(2, state_dict={"a": noise})

        assert caught.value.reason is StoreProblem.FULL
        assert sorted(one.name for one in await store.items()) == before
        assert await arrives(store, first, state())


async def test_old_versions_make_room_for_a_compressed_one(redis_url: str, policy: str, queue: Queue) -> None:
    pytest.importorskip("zstandard")
    weights = StoreOptions(place="redis", quota_bytes=50_000, keep=1, anchor_every=1, grace_s=600, compression="zstd")
    async with AsyncClient(redis_url, policy=policy, weights=weights) as client:
        for version in (1, 2):
            await client.publish_policy(version, state_dict=_noise(version))
            _written_before(queue, 300)

        third = await client.publish_policy(3, state_dict=_noise(3))

        assert client._weights is not None
        assert await arrives(client._weights.store, third, _noise(3))


def _noise(seed: int) -> dict[str, torch.Tensor]:
    """20,000 bytes that zstd makes little smaller."""
    return {"a": torch.randn(5_000, generator=torch.Generator().manual_seed(seed))}
