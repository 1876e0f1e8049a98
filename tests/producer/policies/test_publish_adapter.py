"""An adapter in Redis is complete and never changes."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from rollstream import AdapterConflictError, AdapterError, AsyncClient, RedisUnavailableError
from rollstream.producer.policies.adapter_files import CHUNK_BYTES, AdapterFiles, read_adapter
from rollstream.producer.policies.adapter_tensors import Scaling
from rollstream.producer.policies.adapter_upload import upload
from rollstream.producer.redis_io.connection import Connection
from rollstream.schemas import AdapterManifest, decode
from tests.support.faults import Link, Queue
from tests.support.weights.publishing import (
    STEM,
    A,
    announced,
    blobs,
    flush,
    lora,
    manifests,
    peft_folder,
    read_back,
    restore,
    ttl,
    until_cut,
)

MIB = 2**20


async def test_an_adapter_from_tensors_is_read_back_as_one_from_a_folder(
    trainer: AsyncClient, queue: Queue, tmp_path: Path
) -> None:
    tensors = lora(width=2**18)  # two chunks and a half
    assert await trainer.publish_adapter("math", 16, peft_folder(tmp_path / "a", tensors), progress=True) == "math@16"
    assert await trainer.publish_adapter("math", 17, tensors, lora_alpha=8) == "math@17"

    (config, weights), (other_config, other_weights) = read_back(queue, "math@16"), read_back(queue, "math@17")
    assert len(blobs(queue)) == 6
    assert other_config.items() >= config.items()
    assert other_config["target_modules"] == ["q_proj"]
    assert weights.keys() == other_weights.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(weights[name], tensor)
        assert torch.equal(other_weights[name], tensor)
    for key in (*blobs(queue), *manifests(queue)):
        assert 86_000 < ttl(queue, key) <= 90_000


async def test_an_adapter_never_changes(trainer: AsyncClient, queue: Queue) -> None:
    await trainer.publish_adapter("math", 1, lora(1), lora_alpha=8)
    before = read_back(queue, "math@1")[1]
    for other, alpha in ((lora(2), 8), (lora(1), 16)):
        with pytest.raises(AdapterConflictError, match="math@1"):
            await trainer.publish_adapter("math", 1, other, lora_alpha=alpha)
    assert len(blobs(queue)) == 1, "what cannot be published was sent"
    assert read_back(queue, "math@1")[1].keys() == before.keys()


async def test_of_two_trainers_with_the_same_name_the_first_to_finish_wins(redis_url: str, queue: Queue) -> None:
    small, large = [
        await read_adapter("x", tensors, Scaling(lora_alpha=8)) for tensors in (lora(1), lora(2, width=2**20))
    ]
    connections = [Connection(access=redis_url, reconnect_s=5) for _ in range(2)]
    calls = (
        upload(connection, queue.keys, "math@1", files, progress=False)
        for connection, files in zip(connections, (small, large), strict=True)
    )
    won, lost = await asyncio.gather(*calls, return_exceptions=True)
    for connection in connections:
        await connection.aclose()
    assert isinstance(won, AdapterManifest)
    assert isinstance(lost, AdapterConflictError)
    assert torch.equal(read_back(queue, "math@1")[1][A], lora(1)[A])


async def test_publishing_an_adapter_again_renews_it_and_restores_lost_chunks(
    trainer: AsyncClient, queue: Queue
) -> None:
    tensors = lora(width=2**18)
    await trainer.publish_adapter("math", 1, tensors, lora_alpha=8)
    keys = blobs(queue)
    queue.redis.delete(keys[0])
    for key in (*keys[1:], *manifests(queue)):
        queue.redis.expire(key, 60)
    assert await trainer.publish_adapter("math", 1, tensors, lora_alpha=8) == "math@1"
    read_back(queue, "math@1")
    assert all(ttl(queue, key) > 86_000 for key in (*keys, *manifests(queue)))


@pytest.mark.parametrize(
    ("call", "nth"),
    [(b"STRLEN", 1), (b"$3\r\nSET\r\n", 1), (b"$3\r\nSET\r\n", 3), (b"NX", 1), (b"GETEX", 1)],
    ids=["look", "chunk", "last chunk", "manifest", "read back"],
)
async def test_a_lost_reply_to_an_upload_changes_nothing(
    faulty: AsyncClient, link: Link, queue: Queue, call: bytes, nth: int
) -> None:
    link.lose_reply(to=call, nth=nth)
    tensors = lora(width=2**18)
    assert await faulty.publish_adapter("math", 1, tensors, lora_alpha=8) == "math@1"
    assert link.lost == 1
    assert torch.equal(read_back(queue, "math@1")[1][f"{STEM}.lora_A.weight"], tensors[f"{STEM}.lora_A.weight"])


@pytest.mark.parametrize("as_policy", [False, True], ids=["an adapter", "a policy"])
async def test_an_upload_that_was_cut_short_leaves_nothing_that_is_found(
    link: Link, redis_url: str, policy: str, queue: Queue, as_policy: bool
) -> None:
    tensors = lora(width=2**18)

    async def publish(url: str, reconnect_s: float) -> None:
        async with AsyncClient(url, policy=policy, reconnect_s=reconnect_s) as client:
            if as_policy:
                await client.publish_policy(1, adapter=tensors, lora_alpha=8)
            else:
                await client.publish_adapter("math", 1, tensors, lora_alpha=8)

    link.cut_after(6 * MIB)
    with pytest.raises(RedisUnavailableError):
        await publish(link.url, 0.2)
    assert len(blobs(queue)) == 1, "the cut came at another place"
    assert (manifests(queue), announced(queue)) == ([], [])
    await publish(redis_url, 5)
    (name,) = manifests(queue)
    read_back(queue, name.decode().partition(":adapter:")[2])
    assert len(announced(queue)) == as_policy


@pytest.mark.parametrize("as_policy", [False, True], ids=["an adapter", "a policy"])
async def test_a_redis_that_loses_everything_in_mid_upload_has_all_of_it_afterwards(
    faulty: AsyncClient, link: Link, queue: Queue, as_policy: bool
) -> None:
    tensors = lora(width=2**18)
    link.cut_after(6 * MIB)
    call = (
        faulty.publish_policy(1, adapter=tensors, lora_alpha=8)
        if as_policy
        else faulty.publish_adapter("math", 1, tensors, lora_alpha=8)
    )
    publishing = asyncio.create_task(cast("Any", call))
    await until_cut(link)
    assert len(blobs(queue)) == 1, "the cut came at another place"
    flush(queue)
    restore(link)
    await publishing

    (name,) = manifests(queue)
    _, found = read_back(queue, name.decode().partition(":adapter:")[2])
    assert all(torch.equal(found[tensor], tensors[tensor]) for tensor in tensors)


class Losing(AdapterFiles):
    """Redis loses everything whenever a chunk but the first is read, `times` times."""

    __slots__ = ("queue", "times")
    queue: Queue
    times: int

    def chunk(self, number: int) -> bytes:
        if number and self.times:
            object.__setattr__(self, "times", self.times - 1)
            flush(self.queue)
        return AdapterFiles.chunk(self, number)


@pytest.mark.parametrize("times", [1, 3, 100])
async def test_a_redis_that_loses_chunks_again_and_again_is_an_error(redis_url: str, queue: Queue, times: int) -> None:
    files = Losing(**dataclasses.asdict(await read_adapter("math@1", lora(width=2**18), Scaling(lora_alpha=8))))
    object.__setattr__(files, "queue", queue)
    object.__setattr__(files, "times", times)
    connection = Connection(access=redis_url, reconnect_s=5)
    try:
        if times == 100:
            with pytest.raises(AdapterError, match="of its 3 chunks were gone once it was sent, 5 times"):
                await upload(connection, queue.keys, "math@1", files, progress=False)
        else:
            await upload(connection, queue.keys, "math@1", files, progress=False)
            read_back(queue, "math@1")
    finally:
        await connection.aclose()


async def test_a_chunk_costs_redis_no_more_than_its_bytes(trainer: AsyncClient, queue: Queue) -> None:
    await trainer.publish_adapter("math", 1, lora(width=2**18), lora_alpha=8)
    sizes = [(queue.redis.strlen(key), cast("int", queue.redis.memory_usage(key))) for key in blobs(queue)]
    assert sizes[0][0] == CHUNK_BYTES
    assert sizes[0][1] < 1.02 * CHUNK_BYTES


async def test_a_policy_published_as_an_adapter_names_what_it_shipped(trainer: AsyncClient, queue: Queue) -> None:
    tensors = lora()
    published = await trainer.publish_policy(4, adapter=tensors, lora_alpha=8)
    assert (published.version, published.source) == (4, "adapter")
    manifest = decode(cast("bytes", queue.redis.get(queue.keys.adapter(published.location))), AdapterManifest)
    assert manifest.sha256 == published.sha256
    assert manifest.name == published.location == f"policy.{published.sha256[:16]}@4"
    with pytest.raises(AdapterError, match="those of policy versions"):
        await trainer.publish_adapter(published.location.partition("@")[0], 5, tensors, lora_alpha=8)


async def test_a_trainer_that_died_before_announcing_publishes_other_weights_later(
    trainer: AsyncClient, redis_url: str, queue: Queue
) -> None:
    """Training is not repeatable: after a restart step 1 may give other weights."""
    await trainer.publish_policy(1, adapter=lora(1), lora_alpha=8)
    queue.redis.delete(queue.keys.versions())
    published = await trainer.publish_policy(1, adapter=lora(2), lora_alpha=8)
    assert announced(queue) == [("1-0", published)]
