"""An activation names what was announced, only goes forward, and may be sent again."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from rollstream.schemas import Keys, decode, encode
from rollstream.schemas.wire.entry_fields import PAYLOAD
from rollstream.schemas.wire.policies import Activation, PolicyVersion
from rollstream.transport.versions.scripts import activate
from rollstream.transport.versions.scripts import announce as publish
from tests.support.faults import Queue
from tests.support.weights.versions import announce


@pytest.fixture
def keys(policy: str) -> Keys:
    return Keys(policy)


def by_hand(version: int) -> Activation:
    return Activation(version=version, by="test", at=1000.5)


def of_content(version: int, content: str) -> Activation:
    return Activation(version=version, by="test", at=1000.5, sha256=content * 64)


async def test_only_an_announced_version_that_is_newer_than_the_last_is_activated(
    redis: Redis, keys: Keys, queue: Queue
) -> None:
    for version in (3, 5, 7):
        announce(queue, version, "nowhere")

    found = [await activate(redis, keys, by_hand(version)) for version in (4, 5, 3, 5, 6, 7, 5, 8)]

    assert [(one.outcome, one.last) for one in found] == [
        ("unknown", None),
        ("activated", 5),
        ("older", 5),
        ("already", 5),
        ("unknown", 5),
        ("activated", 7),
        ("already", 7),
        ("unknown", 7),
    ]
    entries: Any = await redis.xrange(keys.activations())
    assert [(entry_id, decode(fields[PAYLOAD], Activation)) for entry_id, fields in entries] == [
        (b"5-0", by_hand(5)),
        (b"7-0", by_hand(7)),
    ]


async def test_activations_above_every_announcement_are_forgotten(redis: Redis, keys: Keys, queue: Queue) -> None:
    """They belong to a versions stream that was deleted, or no script wrote them."""
    for version in (1, 2):
        announce(queue, version, "nowhere")
    await redis.xadd(keys.versions(), {"any": "thing"})
    for number in ("9-0", "*"):
        await redis.xadd(keys.activations(), {"any": "thing"}, id=number)

    found = [await activate(redis, keys, by_hand(version)) for version in (1, 2, 1)]

    assert [(one.outcome, one.last) for one in found] == [("activated", 1), ("activated", 2), ("already", 2)]
    assert await redis.xlen(keys.activations()) == 2


async def test_an_activation_of_other_content_is_of_a_former_stream_and_so_are_all_before_it(
    redis: Redis, keys: Keys, queue: Queue
) -> None:
    for version in (1, 2, 3):
        announce(queue, version, "nowhere", "a" * 64)
    for version in (1, 2):
        await activate(redis, keys, of_content(version, "a"))
    await redis.delete(keys.versions())
    for version in (1, 2, 3):
        announce(queue, version, "nowhere", "b" * 64)

    told = (2, "a"), (1, "b"), (1, "b"), (3, "b"), (2, "b")
    found = [await activate(redis, keys, of_content(version, content)) for version, content in told]

    assert [(one.outcome, one.last) for one in found] == [
        ("unknown", 2),
        ("activated", 1),
        ("already", 1),
        ("activated", 3),
        ("older", 3),
    ]
    entries: Any = await redis.xrange(keys.activations())
    assert [entry_id for entry_id, _ in entries] == [b"1-0", b"3-0"]


async def test_what_an_older_release_activated_stays_so(redis: Redis, keys: Keys, queue: Queue) -> None:
    """It named no content."""
    announce(queue, 1, "nowhere", "a" * 64)
    await redis.xadd(keys.activations(), {PAYLOAD: encode(by_hand(1))}, id="1-0")

    found = await activate(redis, keys, of_content(1, "a"))

    assert (found.outcome, await redis.xlen(keys.activations())) == ("already", 1)


async def test_the_first_announcement_of_a_stream_removes_the_activations_of_a_former_one(
    redis: Redis, keys: Keys
) -> None:
    def version(number: int) -> PolicyVersion:
        return PolicyVersion(
            version=number, source="checkpoint", location="x", sha256="a" * 64, published_at=0.0, requires=()
        )

    await publish(redis, keys, version(1))
    await activate(redis, keys, of_content(1, "a"))
    assert [await publish(redis, keys, version(number)) for number in (2, 2, 1)] == [True, False, False]
    assert await redis.xlen(keys.activations()) == 1

    await redis.delete(keys.versions())
    assert await publish(redis, keys, version(1))
    assert not await redis.exists(keys.activations())


@pytest.mark.keys_by_hand
@pytest.mark.parametrize("key", ["versions", "activations"])
async def test_a_key_of_another_type_is_an_error(redis: Redis, keys: Keys, queue: Queue, key: str) -> None:
    announce(queue, 1, "nowhere")
    await redis.delete(getattr(keys, key)())
    await redis.set(getattr(keys, key)(), "no stream")

    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await activate(redis, keys, by_hand(1))
