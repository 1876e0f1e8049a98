"""Typed calls of the scripts that keep images."""

from __future__ import annotations

from collections.abc import Sequence

from rollstream.schemas import Keys
from rollstream.schemas.times import MEDIA_TTL_S
from rollstream.schemas.wire.images import ImageRef
from rollstream.transport.redis.scripts import Call, load

_RENEW = load(__package__, "renew_images.lua")
_KEEP = load(__package__, "keep_image.lua")
_FORGET = load(__package__, "forget_images.lua")


def renew(keys: Keys, refs: Sequence[ImageRef], keep_s: int = MEDIA_TTL_S) -> Call:
    """Let images stay for so many seconds at least. The reply: for each, whether it is there."""
    words = [word for ref in refs for word in (ref.sha256, ref.nbytes)]
    return _RENEW([keys.media_index(), *(keys.media(ref.sha256) for ref in refs)], [keep_s, *words])


def keep(keys: Keys, sha256: str, data: bytes, quota: int, keep_s: int = MEDIA_TTL_S) -> Call:
    """Keep an image's file. The reply: whether it was kept, and the bytes of all images with it."""
    return _KEEP([keys.media_index(), keys.media(sha256)], [sha256, data, keep_s, quota])


def forget(keys: Keys, names: Sequence[str]) -> Call:
    """Take images off the index that have expired. The reply: the bytes of those that are left."""
    return _FORGET([keys.media_index(), *map(keys.media, names)], names)
