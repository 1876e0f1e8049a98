"""What a cancelled task does while it cleans up is done: a cancellation counts once, and the next one counts again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from redis.asyncio import Redis

from rollstream import AsyncClient, BatchHandle
from rollstream.producer.operations.queue_state import read_queue_state
from rollstream.producer.operations.requests import drain, pause, resume, wait_until_drained
from rollstream.producer.redis_io.connection import Connection
from rollstream.schemas import Keys
from rollstream.worker.redis_io.connections import connect, retrying
from tests.support.batches import CONFIG
from tests.support.faults import Link, Queue
from tests.support.reports import report_of
from tests.support.weights.publishing import lora


class World:
    """All that a call of a trainer may need."""

    def __init__(self, client: AsyncClient, handle: BatchHandle, connection: Connection, keys: Keys) -> None:
        self.client, self.handle, self.connection, self.keys = client, handle, connection, keys


async def _groups(world: World) -> list[Any]:
    await world.handle.cancel()
    return [answer async for answer in world.handle.groups()]


async def _result(world: World) -> int:
    await world.handle.cancel()
    return len(await world.handle.wait(timeout=20))


CALLS: dict[str, Callable[[World], Awaitable[Any]]] = {
    "submit": lambda world: world.client.submit([[1]] * 9, None, CONFIG, prompts_per_job=1),
    "attach": lambda world: world.client.attach(world.handle.batch_id),
    "groups": _groups,
    "result": _result,
    "finished": lambda world: world.handle.finished(),
    "done": lambda world: world.handle.done(),
    "publish_adapter": lambda world: world.client.publish_adapter("math", 0, lora(), lora_alpha=8),
    "publish_policy": lambda world: world.client.publish_policy(1, adapter=lora(), lora_alpha=8),
    "wait_for_version": lambda world: world.client.wait_for_version(0, 1, 20),
    "pause": lambda world: pause(world.connection, world.keys),
    "resume": lambda world: resume(world.connection, world.keys),
    "drain": lambda world: drain(world.connection, world.keys, None),
    "wait_until_drained": lambda world: wait_until_drained(world.connection, world.keys, ["gone"]),
    "status": lambda world: read_queue_state(world.connection, world.keys),
}


@pytest.fixture
async def world(trainer: AsyncClient, redis_url: str, policy: str, queue: Queue) -> Any:
    handle = await trainer.submit([[1]] * 3, None, CONFIG)
    report_of(queue.redis, queue.keys, "a", {"state": "serving", "policy_version": 0})
    connection = Connection(access=redis_url, reconnect_s=1)
    yield World(trainer, handle, connection, Keys(policy))
    await connection.aclose()


@pytest.mark.parametrize("call", CALLS)
async def test_a_call_in_the_clean_up_of_a_cancelled_task_is_made(world: World, call: str) -> None:
    done: list[Any] = []

    async def step() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            done.append([await CALLS[call](world)])

    task = asyncio.create_task(step())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(done) == 1


async def _by_task_group(work: Coroutine[Any, Any, None], is_waiting: asyncio.Event) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(work)
        await is_waiting.wait()
        raise LookupError


async def _by_timeout(work: Coroutine[Any, Any, None], is_waiting: asyncio.Event) -> None:
    async with asyncio.timeout(None) as limit:
        waiting = asyncio.create_task(is_waiting.wait())
        waiting.add_done_callback(lambda _: limit.reschedule(0))
        await work


async def _by_a_cancel(work: Coroutine[Any, Any, None], is_waiting: asyncio.Event) -> None:
    task = asyncio.create_task(work)
    await is_waiting.wait()
    task.cancel()
    await task


CANCELLED = {"a task group": _by_task_group, "a timeout": _by_timeout, "a cancel": _by_a_cancel}


@pytest.mark.parametrize("by", CANCELLED)
async def test_a_batch_that_a_cancelled_task_cancels_is_cancelled_whole(trainer: AsyncClient, by: str) -> None:
    counted: list[int] = []
    is_waiting = asyncio.Event()

    async def rollout() -> None:
        handle = await trainer.submit([[1]] * 600, None, CONFIG)
        try:
            asyncio.get_running_loop().call_later(0.05, is_waiting.set)
            await handle.result()
        finally:
            counted.extend((await handle.cancel(), await handle.done(), len(await handle.wait(20))))

    task = asyncio.create_task(CANCELLED[by](rollout(), is_waiting))
    await asyncio.wait({task}, timeout=30)
    assert counted == [600, 600, 600]
    assert task.cancelled() or isinstance(task.exception(), TimeoutError | ExceptionGroup)


async def test_another_cancellation_ends_the_clean_up(trainer: AsyncClient) -> None:
    handle, cleaning = await trainer.submit([[1]], None, CONFIG), asyncio.Event()

    async def step() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cleaning.set()
            await handle.result()

    task = asyncio.create_task(step())
    await asyncio.sleep(0)
    task.cancel()
    await cleaning.wait()
    await asyncio.sleep(0.1)
    task.cancel()
    ended, _ = await asyncio.wait({task}, timeout=20)
    assert ended
    assert task.cancelled()


async def test_a_task_that_cancelled_itself_is_cancelled_in_its_next_call(redis_url: str) -> None:
    connection = Connection(access=redis_url, reconnect_s=1)
    reached = []

    async def call() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        reached.append(await connection.call("ping", lambda redis: redis.ping()))

    for _ in range(20):
        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(call())
    assert reached == []
    await connection.aclose()


async def test_no_cancellation_of_a_clean_up_is_lost(redis_url: str) -> None:
    """redis-py loses some: a caller that is cancelled again would go on calling."""
    connection = Connection(access=redis_url, reconnect_s=1)

    async def call_for_ever() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            while True:
                await connection.call("ping", lambda redis: redis.ping())

    for number in range(60):
        calling = asyncio.create_task(call_for_ever())
        await asyncio.sleep(0)
        calling.cancel()
        await asyncio.sleep(number % 10 / 2000)
        calling.cancel()
        ended, _ = await asyncio.wait({calling}, timeout=20)
        assert ended, f"cancellation {number} was lost"
    await connection.aclose()


async def test_what_a_worker_sends_in_its_clean_up_is_sent_until_redis_takes_it(link: Link) -> None:
    redis: Redis = connect(link.url)
    await redis.ping()
    answered: list[Any] = []

    async def step() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            answered.append(await retrying("ping", redis.ping))

    task = asyncio.create_task(step())
    await asyncio.sleep(0)
    link.drop()
    task.cancel()
    assert not (await asyncio.wait({task}, timeout=0.3))[0], "gave up while Redis was away"
    link.restore()
    await asyncio.wait({task}, timeout=20)
    assert answered == [True]
    assert task.cancelled()
    await redis.aclose()
