"""What all queues share: a client with commands on stdin, and a gate at which workers wait until the queue is full."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol, TypeVar

REDIS = os.environ.get("QUEUE_BENCH_REDIS", "redis://127.0.0.1:6379/0")
CONCURRENCY = int(os.environ.get("QUEUE_BENCH_CONCURRENCY", "32"))
READY, GO = "queue-bench:ready", "queue-bench:go"
RESULT_WAIT_S = 0.02
"""Seconds between two looks for a result, for queues that poll."""

S = TypeVar("S")
T = TypeVar("T")


class Client(Protocol):
    """The producer's side of a queue."""

    async def enqueue(self, jobs: int) -> None:
        """Queue so many no-op jobs; return once all are queued."""

    async def results(self) -> int:
        """Wait for and read the results of all jobs queued since the last call; returns their number."""


async def obey(client: Client) -> None:
    """Read commands, `enqueue N` or `results`, a line each; answer with JSON: seconds, CPU seconds, and the count."""
    while line := (await asyncio.to_thread(sys.stdin.readline)).split():
        began, cpu = time.perf_counter(), time.process_time()
        if line[0] == "enqueue":
            count = int(line[1])
            await client.enqueue(count)
        else:
            count = await client.results()
        reply = {"seconds": time.perf_counter() - began, "cpu_s": time.process_time() - cpu, "count": count}
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


async def each(items: Iterable[S], call: Callable[[S], Awaitable[T]], at_once: int = CONCURRENCY) -> list[T]:
    """Call `call` with every item, `at_once` at a time; the results are in the order in which they ended."""
    left, found = iter(items), list[T]()

    async def take() -> None:
        for item in left:
            found.append(await call(item))

    await asyncio.gather(*(take() for _ in range(at_once)))
    return found


async def pass_gate(redis: Any) -> None:
    """Note that a worker is ready, and hold it until the gate opens. `redis`: any asyncio client."""
    await redis.incr(READY)
    while await redis.get(GO) is None:  # noqa: ASYNC110 - another process opens it
        await asyncio.sleep(0.01)


def prefer_uvloop() -> bool:
    """Use uvloop for the next event loop if this Python has it. Returns whether it has."""
    try:
        import uvloop  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415 - a peer's choice
    except ModuleNotFoundError:
        return False
    uvloop.install()
    return True
