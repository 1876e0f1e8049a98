"""After a publish the store holds what somebody may still need, and no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rollstream import AsyncClient, StoreOptions
from rollstream.producer.errors import RedisUnavailableError
from rollstream.schemas import Keys
from rollstream.transport.weights import WeightStore, is_chunk, read_chain, store_of
from tests.support.faults import Queue
from tests.support.reports import report_of


def state(version: int) -> dict[str, torch.Tensor]:
    return {"w": torch.full((2000,), 0.5).index_fill(0, torch.tensor([version % 2000]), 1.0 * version)}


@pytest.fixture
def store(tmp_path: Path, policy: str) -> WeightStore:
    return store_of(tmp_path, Keys(policy))


def options(place: Path, **more: Any) -> StoreOptions:
    return StoreOptions(place=place, **{"anchor_every": 2, "keep": 1, "grace_s": 0, **more})


async def versions(store: WeightStore) -> set[int]:
    return {int(one.name.partition("-")[0]) for one in await store.items() if not is_chunk(one.name)}


async def is_whole(store: WeightStore) -> bool:
    """Whether every manifest has its chain and its chunks, and every chunk a manifest."""
    items = {one.name for one in await store.items()}
    chunks: set[str] = set()
    for name in items:
        if not is_chunk(name):
            for manifest in await read_chain(store, name):
                chunks |= {chunk.sha256 for chunk in manifest.chunks}
    return chunks == {name for name in items if is_chunk(name)}


async def publish(client: AsyncClient, *numbers: int) -> None:
    for number in numbers:
        await client.publish_policy(number, state_dict=state(number))


async def test_the_newest_and_its_chain_stay(redis_url: str, policy: str, tmp_path: Path, store: WeightStore) -> None:
    async with AsyncClient(redis_url, policy=policy, weights=options(tmp_path)) as client:
        await publish(client, 1, 2, 3, 4, 5, 6)

    assert await versions(store) == {5, 6}
    assert await is_whole(store)


async def test_what_live_workers_serve_load_and_have_prepared_stays_with_the_version_before(
    redis_url: str, policy: str, tmp_path: Path, store: WeightStore, server: Any
) -> None:
    keys = Keys(policy)
    report_of(server, keys, "gpu-1", {"policy_version": "5", "state": "serving"})
    report_of(server, keys, "gpu-2", {"policy_version": "0", "prepared_version": "8", "state": "serving"})

    async with AsyncClient(redis_url, policy=policy, weights=options(tmp_path)) as client:
        await publish(client, *range(1, 13))

    assert await versions(store) == {3, 4, 5, 7, 8, 11, 12}  # 3 and 7: the anchors of 4 and 8
    assert await is_whole(store)


async def test_the_activated_version_stays(
    redis_url: str, policy: str, tmp_path: Path, store: WeightStore, queue: Queue
) -> None:
    async with AsyncClient(redis_url, policy=policy, weights=options(tmp_path, anchor_every=1)) as client:
        await client.publish_policy(1, state_dict=state(1), activate="by_hand")
        await client.activate(1)
        for version in (2, 3, 4):
            await client.publish_policy(version, state_dict=state(version), activate="by_hand")

    assert await versions(store) == {1, 4}


async def test_the_one_to_serve_stays_however_many_wait_after_it(
    redis_url: str, policy: str, tmp_path: Path, store: WeightStore
) -> None:
    async with AsyncClient(redis_url, policy=policy, weights=options(tmp_path, keep=3)) as client:
        await publish(client, 1, 2)
        for version in range(3, 8):
            await client.publish_policy(version, state_dict=state(version), activate="by_hand")

    assert await versions(store) == {1, 2, 5, 6, 7}
    assert await is_whole(store)


async def test_content_that_was_announced_under_another_number_stays(
    redis_url: str, policy: str, tmp_path: Path, store: WeightStore, server: Any
) -> None:
    keys = Keys(policy)
    report_of(server, keys, "gpu-1", {"policy_version": "1", "state": "serving"})
    async with AsyncClient(redis_url, policy=policy, weights=options(tmp_path, anchor_every=1)) as client:
        await publish(client, 1, 2, 3)
        await client.publish_policy(4, again=1)
        report_of(server, keys, "gpu-1", {"policy_version": "4", "state": "serving"})
        await publish(client, 5, 6)

    assert await versions(store) == {1, 3, 6}
    assert await is_whole(store)


async def test_a_manifest_that_another_trainer_replaced_is_read_again(
    redis_url: str, policy: str, tmp_path: Path, store: WeightStore
) -> None:
    weights = options(tmp_path, anchor_every=20, keep=3)
    async with AsyncClient(redis_url, policy=policy, weights=weights) as client:
        await publish(client, 1, 2)
        async with AsyncClient(redis_url, policy=policy, weights=options(tmp_path, grace_s=600)) as other:
            await publish(other, 2)  # as an anchor, with chunks of its own
        await publish(client, 3)

    assert await versions(store) == {1, 2, 3}
    assert await is_whole(store)


async def test_nothing_is_removed_that_was_just_written(
    redis_url: str, policy: str, tmp_path: Path, store: WeightStore
) -> None:
    async with AsyncClient(redis_url, policy=policy, weights=options(tmp_path, grace_s=600)) as client:
        await publish(client, 1, 2, 3, 4, 5)

    assert await versions(store) == {1, 2, 3, 4, 5}


async def test_the_newest_few_stay(redis_url: str, policy: str, tmp_path: Path, store: WeightStore) -> None:
    async with AsyncClient(redis_url, policy=policy, weights=options(tmp_path, keep=3, anchor_every=1)) as client:
        await publish(client, 1, 2, 3, 4, 5)

    assert await versions(store) == {3, 4, 5}


async def test_a_manifest_that_is_spoilt_does_not_stop_the_others(
    redis_url: str, policy: str, tmp_path: Path, store: WeightStore
) -> None:
    await store.put(f"9-{'0' * 16}", b"no manifest")
    async with AsyncClient(redis_url, policy=policy, weights=options(tmp_path, anchor_every=1)) as client:
        await publish(client, 1, 2)

    assert await versions(store) == {2}


async def test_a_publish_stands_although_the_old_cannot_be_removed(
    redis_url: str, policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def away(*_args: object) -> None:
        raise RedisUnavailableError("read the workers", "redis://x", "gone", "wait")

    monkeypatch.setattr("rollstream.producer.weights.garbage.live_reports", away)
    async with AsyncClient(redis_url, policy=policy, weights=options(tmp_path)) as client:
        await publish(client, 1, 2, 3)
        assert await client.newest_version() in {0, 3}

    assert "was not cleared of old versions" in caplog.text
    assert await versions(store_of(tmp_path, Keys(policy))) == {1, 2, 3}
