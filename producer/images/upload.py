"""Keep images in Redis, each once by its digest, before a job names them. Repeating it sends what is not there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from rollstream.schemas import Keys
from rollstream.schemas.hashes.stored_index import TOTAL_FIELD, index_entry
from rollstream.schemas.wire.images import ImageRef
from rollstream.transport.redis.confirmed import confirmed

from ..queue_errors import TooLargeForRedisError
from ..redis_io.connection import Connection
from ..redis_io.large_commands import check_size, sized
from . import scripts
from .errors import ImagesGoneError
from .given import GivenImages

_AT_ONCE = 500
"""Images that are asked for in one call: Redis serves others in between."""
_COMMAND_BYTES = 2048
"""At most so many bytes has the call that keeps an image besides its file."""
_ADVICE = "an image travels in one command: raise the limit, or scale the image down"
_FULL = "submit fewer images at a time, or raise the quota (image_quota_bytes) and Redis' maxmemory"
_WHAT = "send images"
_DIGITS = 16
"""A sum has fewer."""
_NAME = re.compile(rb"[0-9a-f]{64}")


async def keep_images(connection: Connection, keys: Keys, images: GivenImages) -> None:
    """Send what Redis does not have, and let the rest stay for `images.keep_s` from now on.

    Raises `ImagesGoneError` for an image that was given by its reference and is gone, `TooLargeForRedisError` for one
    that Redis does not take and where all together exceed the quota, both before one is sent; `RedisUnavailableError`.
    """
    absent = await _absent(connection, keys, list(images.files), images.keep_s)
    files = [(ref, images.files[ref]) for ref in absent]
    if gone := [ref.sha256 for ref, data in files if data is None]:
        raise ImagesGoneError(gone, keys.policy)
    largest = max((ref.nbytes for ref in absent), default=0)
    await check_size(connection, _WHAT, largest, largest + _COMMAND_BYTES, _ADVICE)
    await _check_room(connection, keys, absent, images.quota_bytes)
    for ref, data in files:
        await _keep(connection, keys, ref, data or b"", images)


async def renew_images(connection: Connection, keys: Keys, refs: Iterable[ImageRef]) -> None:
    """Let images stay for another day. Raises `ImagesGoneError`, `RedisUnavailableError`."""
    await keep_images(connection, keys, GivenImages(files=dict.fromkeys(refs)))


async def keep_longer(connection: Connection, keys: Keys, refs: Iterable[ImageRef], keep_s: int) -> None:
    """Let those that are there stay for so many seconds at least. Raises `RedisUnavailableError`."""
    await _absent(connection, keys, list(dict.fromkeys(refs)), keep_s)


async def _absent(connection: Connection, keys: Keys, refs: Sequence[ImageRef], keep_s: int) -> list[ImageRef]:
    found: list[ImageRef] = []
    for some in _slices(refs):
        ask = partial(confirmed, call=scripts.renew(keys, some, keep_s), wait=connection.access.wait)
        there = await connection.call(_WHAT, ask)
        found += [ref for ref, is_there in zip(some, there, strict=True) if not is_there]
    return found


async def _check_room(connection: Connection, keys: Keys, absent: Sequence[ImageRef], quota: int) -> None:
    """What is refused half-way would fill the quota for a day, for a batch that nobody has.

    Raises `TooLargeForRedisError`.
    """
    index, more = keys.media_index(), sum(ref.nbytes for ref in absent)
    if not more:
        return
    kept: Any = await connection.call(_WHAT, lambda redis: redis.hget(index, TOTAL_FIELD))
    if _number(kept) + more <= quota:
        return
    await _forget_expired(connection, keys)
    told: Any = await connection.call(_WHAT, lambda redis: redis.hgetall(index))
    harmed = (index_entry(told.get(ref.sha256.encode(), b"")) for ref in absent)  # these are replaced
    total = _number(told.get(TOTAL_FIELD.encode())) + more - sum(entry[0] for entry in harmed if entry is not None)
    if total > quota:
        raise _beyond(connection, total, quota)


def _number(told: bytes | None) -> int:
    """The sum on the index; 0 for what the scripts take for none, since anybody may have written it."""
    return int(told) if told and told.isdigit() and len(told) < _DIGITS else 0


async def _keep(connection: Connection, keys: Keys, ref: ImageRef, data: bytes, images: GivenImages) -> None:
    quota = images.quota_bytes
    call = scripts.keep(keys, ref.sha256, data, quota, images.keep_s)
    send = partial(confirmed, call=call, wait=connection.access.wait)
    sending = sized(connection, _WHAT, send, len(data), _ADVICE)
    kept, total = await connection.call(_WHAT, sending)
    if not kept and await _forget_expired(connection, keys):
        kept, total = await connection.call(_WHAT, sending)
    if not kept:  # others have sent theirs since `_check_room`
        raise _beyond(connection, total, quota)


def _beyond(connection: Connection, total: int, quota: int) -> TooLargeForRedisError:
    told = f"the policy's images would have {total} bytes, and the quota is {quota}; {_FULL}"
    return TooLargeForRedisError(_WHAT, connection.url, told, total, quota, "image_quota_bytes")


async def _forget_expired(connection: Connection, keys: Keys) -> bool:
    """Take images off the index that have expired; whether there are any on it."""
    told: Any = await connection.call(_WHAT, lambda redis: redis.hgetall(keys.media_index()))
    names = [name.decode() for name in told if _NAME.fullmatch(name)]
    for some in _slices(names):
        await connection.call(_WHAT, scripts.forget(keys, some).to)
    return bool(names)


def _slices(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (items[at : at + _AT_ONCE] for at in range(0, len(items), _AT_ONCE))
