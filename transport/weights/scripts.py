"""The scripts of the weight store in Redis, as typed calls."""

from __future__ import annotations

from collections.abc import Sequence

from rollstream.schemas.keys import Keys
from rollstream.schemas.times import WEIGHTS_TTL_S

from ..redis.scripts import Call, load

_PUT = load(__package__, "put.lua")
_DROP = load(__package__, "drop.lua")


def put(keys: Keys, name: str, data: bytes, quota: int) -> Call:
    """Keep an item. The reply: whether it was kept, and the bytes of all items with it."""
    return _PUT([keys.weights(), keys.weights_item(name)], [name, data, WEIGHTS_TTL_S, quota])


def drop(keys: Keys, names: Sequence[str], *, only_gone: bool) -> Call:
    """Remove items from Redis and from the index; `only_gone`: only from the index, and those that expired."""
    return _DROP([keys.weights(), *map(keys.weights_item, names)], [int(only_gone), *names])
