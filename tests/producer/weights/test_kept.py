"""A stored version is announced again only while all that its readers need is in the store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from rollstream import AsyncClient, PolicyVersionError, WeightStoreError
from rollstream.schemas import Keys
from rollstream.transport.weights import StoreProblem, WeightStore, read_manifest, store_of
from tests.support.faults import Queue
from tests.support.weights.publishing import announced
from tests.support.weights.weights_store import arrives, state


@pytest.fixture
def store(tmp_path: Path, policy: str) -> WeightStore:
    return store_of(tmp_path, Keys(policy))


@pytest.fixture
async def client(redis_url: str, policy: str, tmp_path: Path) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(redis_url, policy=policy, weights=tmp_path) as client:
        yield client


async def test_a_version_that_is_all_there_is_announced_again(client: AsyncClient, store: WeightStore) -> None:
    await client.publish_policy(1, state_dict=state())
    second = await client.publish_policy(2, state_dict=state(a=1))
    await client.publish_policy(3, state_dict=state(a=2))

    again = await client.publish_policy(4, again=2)

    assert (again.location, again.transport) == (second.location, "store")
    assert await arrives(store, again, state(a=1))


@pytest.mark.parametrize("kind", ["chunk", "manifest"])
@pytest.mark.parametrize("lost", [1, 2], ids=["its anchor's", "its own"])
async def test_a_version_that_lacks_an_item_is_refused_and_not_announced(
    client: AsyncClient, store: WeightStore, queue: Queue, lost: int, kind: str
) -> None:
    versions = [
        await client.publish_policy(1, state_dict=state()),
        await client.publish_policy(2, state_dict=state(a=1)),
    ]
    name = versions[lost - 1].location
    chunk = (await read_manifest(store, name)).chunks[0].sha256
    await store.delete([chunk if kind == "chunk" else name])

    with pytest.raises(
        PolicyVersionError, match=r"the content of version 2 is not in the weight store .* publish its w"
    ):
        await client.publish_policy(3, again=2)

    assert [version for _, version in announced(queue)] == versions


async def test_a_client_without_the_store_leaves_it_to_the_workers(
    client: AsyncClient, store: WeightStore, redis_url: str, policy: str
) -> None:
    first = await client.publish_policy(1, state_dict=state())
    await store.delete([first.location])

    async with AsyncClient(redis_url, policy=policy) as other:
        assert (await other.publish_policy(2, again=1)).location == first.location


async def test_a_store_that_cannot_be_asked_is_no_reason_to_call_it_gone(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.publish_policy(1, state_dict=state())

    async def away(*_args: object) -> None:
        raise WeightStoreError("read", "there", "it did not answer in time", StoreProblem.AWAY)

    monkeypatch.setattr("rollstream.transport.weights.files.FileStore.get", away)
    with pytest.raises(WeightStoreError, match="did not answer in time"):
        await client.publish_policy(2, again=1)


async def test_items_in_redis_stay_for_another_week(redis_url: str, policy: str, queue: Queue) -> None:
    async with AsyncClient(redis_url, policy=policy, weights="redis") as client:
        await client.publish_policy(1, state_dict=state())
        items: list[Any] = list(queue.redis.scan_iter(match=queue.keys.weights() + ":*"))
        for key in items:
            queue.redis.expire(key, 60)

        await client.publish_policy(2, again=1)

    assert len(items) == 2
    assert min(int(str(queue.redis.ttl(key))) for key in items) > 600_000
