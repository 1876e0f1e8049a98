"""What all queues share: a client that obeys lines on stdin, and the gate at which workers wait for a full queue."""

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
"""Between two looks for a result that is not there yet, where a queue looks at all."""

S = TypeVar("S")
T = TypeVar("T")


class Client(Protocol):
    """The producer's side of a queue."""

    async def enqueue(self, jobs: int) -> None:
        """Return once so many no-ops are queued."""

    async def results(self) -> int:
        """Wait for the results of all that was queued since the last call, and read them; how many."""


async def obey(client: Client) -> None:
    """`enqueue N` or `results`, a line each; answers with JSON: seconds, seconds of CPU, and the count."""
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
    """`call` of every item, so many at a time; in the order in which they ended."""
    left, found = iter(items), list[T]()

    async def take() -> None:
        for item in left:
            found.append(await call(item))

    await asyncio.gather(*(take() for _ in range(at_once)))
    return found


async def pass_gate(redis: Any) -> None:
    """Say that a worker is up, and hold it until the gate opens. `redis`: an asyncio client of any make."""
    await redis.incr(READY)
    while await redis.get(GO) is None:  # noqa: ASYNC110 - another process opens it
        await asyncio.sleep(0.01)


def prefer_uvloop() -> bool:
    """Whether this Python has uvloop, which is then the event loop of whatever runs next."""
    try:
        import uvloop  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415 - a peer's choice
    except ModuleNotFoundError:
        return False
    uvloop.install()
    return True
