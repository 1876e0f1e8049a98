"""Adapters of old policy versions leave Redis soon; the newest, and what was published as an adapter, stay a day."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rollstream import AsyncClient
from tests.support.faults import Queue
from tests.support.weights.publishing import blobs, lora, manifests, peft_folder, read_back, ttl


async def published_as_policy(client: AsyncClient, queue: Queue, version: int, seed: int) -> list[bytes]:
    """Keys of its manifest and of its only chunk."""
    published = await client.publish_policy(version, adapter=lora(seed), lora_alpha=8)
    keys = (queue.keys.adapter(published.location), queue.keys.blob(published.sha256, 0))
    return [key.encode() for key in keys]


async def test_a_superseded_policys_adapter_leaves_redis_within_an_hour_and_the_newest_stays_a_day(
    trainer: AsyncClient, queue: Queue
) -> None:
    first = await published_as_policy(trainer, queue, 1, seed=1)
    assert all(86_000 < ttl(queue, key) <= 90_000 for key in first)
    second = await published_as_policy(trainer, queue, 2, seed=2)
    assert all(86_000 < ttl(queue, key) <= 90_000 for key in second)
    assert [0 < ttl(queue, key) <= 3600 for key in first] == [True, True]
    assert ttl(queue, first[0]) < ttl(queue, first[1]), "a manifest outlives its chunks"

    for key in first:
        queue.redis.expire(key, 86_400)  # as a worker does that served it until a moment ago
    for key in second:
        queue.redis.expire(key, 100)
    third = await published_as_policy(trainer, queue, 3, seed=3)
    assert [0 < ttl(queue, key) <= 3600 for key in first] == [True, True]
    assert all(ttl(queue, key) <= 100 for key in second), "what was to go was kept"
    assert all(ttl(queue, key) > 86_000 for key in third)


async def test_the_adapter_to_serve_stays_while_newer_ones_are_not_active(trainer: AsyncClient, queue: Queue) -> None:
    first = await published_as_policy(trainer, queue, 1, seed=1)
    second = await published_as_policy(trainer, queue, 2, seed=2)
    for version in (3, 4):
        await trainer.publish_policy(version, adapter=lora(version), lora_alpha=8, activate="by_hand")
    assert all(ttl(queue, key) <= 3600 for key in first)
    assert all(ttl(queue, key) > 86_000 for key in second)


async def test_weights_that_are_published_again_stay_a_day(trainer: AsyncClient, queue: Queue) -> None:
    first = await published_as_policy(trainer, queue, 1, seed=1)
    await published_as_policy(trainer, queue, 2, seed=2)
    queue.redis.expire(first[0], 86_400)  # as a worker does that served it until a moment ago
    again = await published_as_policy(trainer, queue, 3, seed=1)
    assert again[1] == first[1], "the same weights have other chunks"
    assert all(ttl(queue, key) > 86_000 for key in again)


async def test_a_superseded_version_that_is_published_again_leaves_within_an_hour(
    trainer: AsyncClient, queue: Queue
) -> None:
    first = await published_as_policy(trainer, queue, 1, seed=1)
    second = await published_as_policy(trainer, queue, 2, seed=2)
    assert await published_as_policy(trainer, queue, 1, seed=1) == first
    assert all(ttl(queue, key) <= 3600 for key in first)
    assert all(ttl(queue, key) > 86_000 for key in second)


@pytest.mark.parametrize("as_folder", [False, True], ids=["tensors", "a folder"])
async def test_an_adapter_with_the_weights_of_a_policy_is_kept_when_that_is_superseded(
    trainer: AsyncClient, queue: Queue, tmp_path: Path, as_folder: bool
) -> None:
    source: dict[str, Any] = {} if as_folder else {"lora_alpha": 8}
    weights: Any = peft_folder(tmp_path / "a", lora(1)) if as_folder else lora(1)
    await trainer.publish_adapter("math", 1, weights, **source)
    kept = [*manifests(queue), *blobs(queue)]
    await trainer.publish_policy(1, adapter=weights, **source)
    await trainer.publish_policy(2, adapter=lora(2), lora_alpha=8)
    assert all(ttl(queue, key) > 86_000 for key in kept)
    read_back(queue, "math@1")
