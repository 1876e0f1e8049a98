"""An activation names what was announced, only goes forward, and may be sent again."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from rollstream.schemas import Keys, decode
from rollstream.schemas.wire.entry_fields import PAYLOAD
from rollstream.schemas.wire.policies import Activation
from rollstream.transport.versions.scripts import activate
from tests.support.faults import Queue
from tests.support.versions import announce


@pytest.fixture
def keys(policy: str) -> Keys:
    return Keys(policy)


def by_hand(version: int) -> Activation:
    return Activation(version=version, by="test", at=1000.5)


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


@pytest.mark.keys_by_hand
@pytest.mark.parametrize("key", ["versions", "activations"])
async def test_a_key_of_another_type_is_an_error(redis: Redis, keys: Keys, queue: Queue, key: str) -> None:
    announce(queue, 1, "nowhere")
    await redis.delete(getattr(keys, key)())
    await redis.set(getattr(keys, key)(), "no stream")

    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await activate(redis, keys, by_hand(1))
