"""What changed is sent as a delta, and all weights whenever a delta could not be read by everybody."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rollstream import AsyncClient, PolicyVersion, PolicyVersionError, StoreOptions, WeightStoreError
from rollstream.schemas import Keys
from rollstream.transport.weights import WeightStore, is_chunk, read_manifest, store_of
from tests.support.faults import Queue
from tests.support.weights.publishing import announced
from tests.support.weights.weights_store import SIZE, arrives, state


def options(place: Path, **more: Any) -> StoreOptions:
    return StoreOptions(place=place, **more)


@pytest.fixture
def store(tmp_path: Path, policy: str) -> WeightStore:
    return store_of(tmp_path, Keys(policy))


@pytest.fixture
async def client(redis_url: str, policy: str, tmp_path: Path) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(redis_url, policy=policy, weights=tmp_path) as client:
        yield client


async def test_a_delta_brings_only_what_changed(client: AsyncClient, store: WeightStore) -> None:
    await client.publish_policy(1, state_dict=state())
    second = await client.publish_policy(2, state_dict=state(a=3.5))
    third = await client.publish_policy(5, state_dict=state(a=3.5, b=-2))

    manifest = await read_manifest(store, third.location)
    assert (manifest.base, manifest.base_sha256, manifest.chain, manifest.changed) == (2, second.sha256, 2, 1)
    assert manifest.num_bytes < 60
    assert await arrives(store, third, state(a=3.5, b=-2))
    assert await arrives(store, second, state(a=3.5))


async def test_every_so_many_versions_all_weights_are_sent(redis_url: str, policy: str, tmp_path: Path) -> None:
    async with AsyncClient(redis_url, policy=policy, weights=options(tmp_path, anchor_every=3)) as client:
        bases = [(await client.publish_policy(n, state_dict=state(a=n))).base for n in range(1, 8)]

    assert bases == [None, 1, 2, None, 4, 5, None]


async def test_all_weights_are_sent_where_a_delta_is_not_smaller(client: AsyncClient) -> None:
    await client.publish_policy(1, state_dict=state())
    other = {name: tensor + 1 for name, tensor in state().items()}

    assert (await client.publish_policy(2, state_dict=other)).base is None


async def test_all_weights_are_sent_once_the_deltas_together_have_as_many_bytes(client: AsyncClient) -> None:
    tensors, bases = state(), []
    for version in range(1, 6):
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        tensors["a"][: SIZE // 2] += 1
        bases.append((await client.publish_policy(version, state_dict=tensors)).base)

    assert bases == [None, 1, 2, 3, None]


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.ones(SIZE).bfloat16()},
        {**state(), "c": torch.ones(1)},
        {**state(), "b": state()["b"].reshape(50, 100)},
        {**state(), "b": state()["b"].half()},
    ],
    ids=["one less", "one more", "another shape", "another dtype"],
)
async def test_a_model_with_other_tensors_is_sent_whole(client: AsyncClient, other: dict[str, torch.Tensor]) -> None:
    await client.publish_policy(1, state_dict=state())

    with pytest.raises(PolicyVersionError, match="other names, dtypes or shapes"):
        await client.publish_policy(2, state_dict=other, base=1)
    assert (await client.publish_policy(2, state_dict=other)).base is None


async def test_a_trainer_that_was_started_again_sends_all_weights(
    client: AsyncClient, redis_url: str, policy: str, tmp_path: Path, store: WeightStore
) -> None:
    await client.publish_policy(1, state_dict=state())

    async with AsyncClient(redis_url, policy=policy, weights=tmp_path) as after:
        second = await after.publish_policy(2, state_dict=state(a=1))
        third = await after.publish_policy(3, state_dict=state(a=2))

    assert (second.base, third.base) == (None, 2)
    assert await arrives(store, third, state(a=2))


async def test_a_base_by_number_is_that_version_or_an_error(client: AsyncClient) -> None:
    await client.publish_policy(1, state_dict=state())
    assert (await client.publish_policy(2, state_dict=state(a=1), base=1)).base == 1
    assert (await client.publish_policy(3, state_dict=state(a=2), base=None)).base is None

    with pytest.raises(PolicyVersionError, match='this client holds the tensors of version 3; leave it at "auto"'):
        await client.publish_policy(4, state_dict=state(a=3), base=2)


async def test_publishing_the_same_again_writes_nothing_and_other_content_is_refused(
    client: AsyncClient, store: WeightStore, queue: Queue
) -> None:
    first = await client.publish_policy(1, state_dict=state())
    second = await client.publish_policy(2, state_dict=state(a=1))
    before = await store.items()

    assert await client.publish_policy(2, state_dict=state(a=1)) == second
    assert await store.items() == before
    with pytest.raises(PolicyVersionError, match="published with other content") as caught:
        await client.publish_policy(2, state_dict=state(a=2))
    assert caught.value.taken
    assert [version for _, version in announced(queue)] == [first, second]


async def test_a_version_that_another_trainer_published_as_a_delta_may_be_published_whole(
    client: AsyncClient, redis_url: str, policy: str, tmp_path: Path, store: WeightStore
) -> None:
    await client.publish_policy(1, state_dict=state())
    second = await client.publish_policy(2, state_dict=state(a=1))

    async with AsyncClient(redis_url, policy=policy, weights=tmp_path) as other:
        assert await other.publish_policy(2, state_dict=state(a=1)) == second

    assert (await read_manifest(store, second.location)).base is None
    assert await arrives(store, await client.publish_policy(3, state_dict=state(a=2)), state(a=2))


async def test_a_failed_write_announces_nothing_and_the_publish_can_be_repeated(
    client: AsyncClient, store: WeightStore, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.publish_policy(1, state_dict=state())
    with monkeypatch.context() as broken:
        broken.setattr("rollstream.transport.weights.folder.os.fsync", _full)
        with pytest.raises(WeightStoreError, match="No space left on device"):
            await client.publish_policy(2, state_dict=state(a=1))
    assert [entry for entry, _ in announced(queue)] == ["1-0"]

    again = await client.publish_policy(2, state_dict=state(a=1))

    assert again.base == 1
    assert await arrives(store, again, state(a=1))


def _full(_descriptor: int) -> None:
    raise OSError(28, "No space left on device")


async def test_the_announcement_comes_after_everything_that_it_needs(
    client: AsyncClient, store: WeightStore, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    async def announce(_connection: object, _keys: object, weights: PolicyVersion, _terms: object) -> PolicyVersion:
        seen.append(await arrives(store, weights, state()))
        raise RuntimeError("the trainer dies here")

    monkeypatch.setattr("rollstream.producer.weights.publish_tensors.announce_weights", announce)
    with pytest.raises(RuntimeError):
        await client.publish_policy(1, state_dict=state())

    assert seen == [True]
    assert announced(queue) == []


@pytest.mark.parametrize("kind", ["chunk", "manifest"])
async def test_a_chain_that_was_cut_is_healed_by_sending_all_weights(
    client: AsyncClient, store: WeightStore, kind: str
) -> None:
    first = await client.publish_policy(1, state_dict=state())
    await client.publish_policy(2, state_dict=state(a=1))
    chunk = (await read_manifest(store, first.location)).chunks[0].sha256
    await store.delete([chunk if kind == "chunk" else first.location])

    with pytest.raises(PolicyVersionError, match="1 of its items are no more in"):
        await client.publish_policy(3, state_dict=state(a=2), base=2)
    third = await client.publish_policy(3, state_dict=state(a=2))

    assert third.base is None
    assert await arrives(store, third, state(a=2))


async def test_a_store_that_loses_what_is_written_is_given_up(
    client: AsyncClient, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(*_args: object) -> dict[str, int]:
        return {}

    monkeypatch.setattr("rollstream.transport.weights.files.FileStore.sizes", nothing)
    with pytest.raises(WeightStoreError, match="were gone once they were written, 3 times"):
        await client.publish_policy(1, state_dict=state())
    assert announced(queue) == []


async def test_two_publishes_at_once_come_one_after_the_other(client: AsyncClient, store: WeightStore) -> None:
    first, second = await asyncio.gather(
        client.publish_policy(1, state_dict=state()), client.publish_policy(2, state_dict=state(a=1))
    )

    assert (first.base, second.base) == (None, 1)
    assert await arrives(store, second, state(a=1))


async def test_what_was_sent_is_logged(client: AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    await client.publish_policy(1, state_dict=state())
    with caplog.at_level(logging.INFO, "rollstream"):
        await client.publish_policy(2, state_dict=state(a=1), progress=True)

    assert "a delta on version 1" in caplog.text
    assert f"1 of {2 * SIZE} elements changed (0.010 %)" in caplog.text


async def test_compressed_chunks_arrive(redis_url: str, policy: str, tmp_path: Path, store: WeightStore) -> None:
    pytest.importorskip("zstandard")
    zeros = {"a": torch.zeros(100_000)}
    async with AsyncClient(redis_url, policy=policy, weights=options(tmp_path, compression="zstd")) as client:
        version = await client.publish_policy(1, state_dict=zeros)

    assert await arrives(store, version, zeros)
    assert (await read_manifest(store, version.location)).num_bytes < 1000


async def test_large_tensors_are_cut_into_chunks(
    client: AsyncClient, store: WeightStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rollstream.transport.weights.files.CHUNK_BYTES", 2**20)
    large = {"a": torch.randn(1_000_000), "b": torch.zeros(3)}

    version = await client.publish_policy(1, state_dict=large)

    sizes = [chunk.num_bytes for chunk in (await read_manifest(store, version.location)).chunks]
    assert len(sizes) >= 4
    assert max(sizes) <= 2**20
    assert await arrives(store, version, large)


def test_names_of_chunks_and_manifests_differ() -> None:
    assert is_chunk("0" * 64)
    assert not is_chunk(f"1-{'0' * 16}")


def test_options_do_not_show_the_keys_of_their_place() -> None:
    assert "SECRET" not in repr(StoreOptions(place="s3://key:SECRET@bucket/w"))
