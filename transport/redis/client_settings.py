"""What every client of both sides has in common: how long it waits, and that it repeats nothing by itself."""

from __future__ import annotations

from typing import Any

from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

BLOCK_MS = 2_000
"""Longest blocking read; the socket's timeout is 5 s more, so that a slow answer is not taken for a lost one."""
NO_BOUND = 10_000
"""Connections of a pool whose use is bounded elsewhere; redis-py's own bound would be an error, not a queue."""


def client_settings() -> dict[str, Any]:
    """For `connected`. redis-py's own retries are off: they repeat commands that must not be repeated."""
    return {
        "protocol": 2,  # RESP3 changes the shape of stream replies
        "decode_responses": False,
        "retry": Retry(NoBackoff(), 0),
        "socket_connect_timeout": 5,
        "socket_timeout": BLOCK_MS / 1000 + 5,
        "socket_keepalive": True,
    }
