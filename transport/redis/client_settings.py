"""Settings of all Redis clients on both sides: how long they wait, and that they repeat nothing by themselves."""

from __future__ import annotations

from typing import Any

from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

BLOCK_MS = 2_000
"""The longest blocking read. The socket's timeout is 5 s longer, so that a slow answer does not count as lost."""
NO_BOUND = 10_000
"""Size of a pool whose use is limited elsewhere. redis-py would raise an error at its own limit instead of waiting."""


def client_settings() -> dict[str, Any]:
    """Settings for `connected`. redis-py's own retries are off: they repeat commands that must not be repeated."""
    return {
        "protocol": 2,  # RESP3 changes the shape of stream replies
        "decode_responses": False,
        "driver_info": None,  # no CLIENT SETINFO: servers before 7.2 do not know it, and no rule for it either
        "retry": Retry(NoBackoff(), 0),
        "socket_connect_timeout": 5,
        "socket_timeout": BLOCK_MS / 1000 + 5,
        "socket_keepalive": True,
    }
