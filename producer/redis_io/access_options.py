"""The arguments of a client that say how Redis is reached, beside the URL."""

from __future__ import annotations

from typing import TypedDict, Unpack

from rollstream.transport.redis.access import File, RedisAccess
from rollstream.transport.redis.urls import RedisUrlError

from ..calls.options import check_names
from ..errors import RedisUnavailableError


class AccessOptions(TypedDict, total=False):
    """`redis_ca`, `redis_cert`, `redis_key`: PEM files for `rediss://`: the CAs that may have signed Redis'
    certificate, and our own certificate with its key. `redis_password_file`: a file with the password, read for every
    new connection, so that the password may change meanwhile; `redis_sentinel_password_file`: the same for the
    Sentinels. `redis_wait`: replicas of Redis that must have a
    submission before it counts.
    """

    redis_ca: File | None
    redis_cert: File | None
    redis_key: File | None
    redis_password_file: File | None
    redis_sentinel_password_file: File | None
    redis_wait: int


ACCESS_DEFAULTS: AccessOptions = {
    "redis_ca": None,
    "redis_cert": None,
    "redis_key": None,
    "redis_password_file": None,
    "redis_sentinel_password_file": None,
    "redis_wait": 0,
}


def access_of(redis: str | RedisAccess, **beside: Unpack[AccessOptions]) -> RedisAccess:
    """All of it together. Raises `ArgumentError`, and `RedisUnavailableError` for what is given twice."""
    check_names(beside, ACCESS_DEFAULTS)
    try:
        return RedisAccess.of(redis, **{name.removeprefix("redis_"): value for name, value in beside.items()})
    except RedisUrlError as error:
        raise RedisUnavailableError("connect", error.url, error.problem, error.advice) from None
