"""What an operator asks of running workers: pause or resume the queue, drain a worker. All of it may be repeated."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable
from functools import partial
from typing import Any

from redis.asyncio import Redis

from rollstream.schemas import Keys
from rollstream.schemas.pause_reason import PAUSED_FIELD
from rollstream.schemas.printable import printable

from ..calls.patience import Overdue
from ..errors import UnknownWorkerError
from ..policies.live_workers import live_names
from ..redis_io.connection import Connection
from . import scripts

_POLL_S = 0.2


async def pause(connection: Connection, keys: Keys) -> bool:
    """Stop workers from taking new jobs until `resume`; running jobs go on. False: the queue was paused already.

    Raises `RedisUnavailableError`.
    """
    now = f"{time.time():.6f}"

    async def mark(redis: Redis) -> Any:
        async with redis.pipeline(transaction=True) as pipe:
            pipe.hsetnx(keys.control(), PAUSED_FIELD, now)
            pipe.hget(keys.control(), PAUSED_FIELD)
            return (await pipe.execute())[1]

    paused_since = await connection.call("pause", mark)
    return bool(paused_since == now.encode())  # right even if the first reply was lost and the command sent again


async def resume(connection: Connection, keys: Keys) -> bool:
    """Let workers take jobs again. False: the queue was not paused. Raises `RedisUnavailableError`."""
    key = keys.control()
    paused: Any = await connection.call("resume", lambda redis: redis.hexists(key, PAUSED_FIELD))
    await connection.call("resume", lambda redis: redis.hdel(key, PAUSED_FIELD))
    return bool(paused)


async def live_workers(connection: Connection, keys: Keys) -> list[str]:
    """Names of the workers that report, sorted. Raises `RedisUnavailableError`."""
    return await connection.call("list the workers", partial(live_names, keys=keys))


async def drain(connection: Connection, keys: Keys, workers: Collection[str] | None) -> list[str]:
    """Ask workers to end as on SIGTERM; None: all live workers. Returns their names, sorted.

    Raises `UnknownWorkerError` and asks none if one of those named is not alive. Raises `RedisUnavailableError`.
    """
    live = await live_workers(connection, keys)
    if strangers := sorted(set(workers or ()) - set(live)):
        raise UnknownWorkerError(strangers, keys.policy, live)
    return sorted(await _ask(connection, keys, live if workers is None else workers))


async def wait_until_drained(connection: Connection, keys: Keys, workers: Iterable[str]) -> None:
    """Return once none of `workers` reports any more.

    Each look asks the workers again: after an outage of Redis a worker writes a new report that lacks the request.
    """
    left = set(workers)
    with Overdue(lambda seconds: f"drain, after {seconds:.0f} s: still there: {printable(', '.join(sorted(left)))}"):
        while left := await _ask(connection, keys, left):  # noqa: ASYNC110 - the workers are other processes
            await asyncio.sleep(_POLL_S)


async def _ask(connection: Connection, keys: Keys, workers: Iterable[str]) -> set[str]:
    """Ask all `workers` to drain; the names of those that are alive."""
    live = set()
    for worker in sorted(workers):
        if await connection.call("drain", partial(scripts.drain, report=keys.worker(worker))):
            live.add(worker)
    return live
