"""Reports of workers that are none, and where readers look for them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rollstream.schemas import Keys


def report_of(
    server: Any, keys: Keys, worker: str, report: Mapping[Any, Any], ttl_s: float = 120, ahead_s: float = 0
) -> None:
    """Write a worker's report as a beat does, of a time when Redis' clock was ahead by `ahead_s`."""
    server.hset(keys.worker(worker), mapping=report)
    server.pexpire(keys.worker(worker), int(1000 * ttl_s))
    index(server, keys, worker, ahead_s)


def index(server: Any, keys: Keys, worker: str, ahead_s: float = 0) -> None:
    """Let readers find the worker."""
    server.zadd(keys.workers(), {worker: time.time() + ahead_s})
    server.expire(keys.workers(), 600)
