"""No call outlives its time limit, and one without says what it waits for."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rollstream import AsyncClient, Client, ResultTimeoutError, StalenessGate, VersionTimeoutError
from rollstream.producer.calls import patience
from rollstream.schemas import Keys
from tests.support.batches import CONFIG, answering, result
from tests.support.faults import Link, Queue
from tests.support.weights.publishing import lora, reporting
from tests.support.weights.versions import announce, wait_until_parked
from tests.support.worker_process import WorkerProcess, until_true

LIMIT_S, LATE_S = 1.2, 20.0
"""A time limit, and what a call may exceed it by on a busy machine; what does not hold it takes a minute."""

pytestmark = pytest.mark.usefixtures("long_reads")


@pytest.fixture
async def faulty(link: Link, policy: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(link.url, policy=policy, reconnect_s=60) as client:
        yield client


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait is long after a quarter of a second."""
    monkeypatch.setattr(patience, "FIRST_S", 0.25)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """However many seconds each was after."""
    told = [one.getMessage() for one in caplog.records if one.name == "rollstream" and one.levelno == logging.WARNING]
    return [re.sub(r"after \d+ s", "after N s", one) for one in told]


async def until_warned(caplog: pytest.LogCaptureFixture, *parts: str) -> None:
    """Each of `parts` is in a warning."""
    await until_true(lambda: all(any(part in one for one in warnings(caplog)) for part in parts))


FROZEN: dict[str, Callable[[AsyncClient, Any], Awaitable[Any]]] = {
    "result": lambda _, handle: handle.result(timeout=LIMIT_S),
    "wait": lambda _, handle: handle.wait(LIMIT_S),
    "groups": lambda _, handle: anext(handle.groups(timeout=LIMIT_S)),
    "generate": lambda client, _: client.generate([[1]], None, CONFIG, timeout=LIMIT_S),
    "wait_for_version": lambda client, _: client.wait_for_version(1, timeout=LIMIT_S),
}


@pytest.mark.parametrize(
    ("call", "when"),
    [*((call, "before the call") for call in FROZEN), *((call, "during the call") for call in ("result", "generate"))],
)
async def test_no_call_outlives_its_time_limit_when_redis_is_silent(
    faulty: AsyncClient, link: Link, call: str, when: str
) -> None:
    handle = await faulty.submit([[1]], None, CONFIG)
    if when == "before the call":
        link.freeze()
    else:
        asyncio.get_running_loop().call_later(0.1, asyncio.create_task, asyncio.to_thread(link.freeze))
    began = time.monotonic()
    with pytest.raises((ResultTimeoutError, VersionTimeoutError), match="Redis" if when == "before the call" else None):
        await FROZEN[call](faulty, handle)
    assert time.monotonic() - began < LIMIT_S + LATE_S
    link.thaw()


@pytest.mark.parametrize("call", ["groups", "generate"])
def test_the_blocking_client_keeps_to_its_time_limit_too(link: Link, policy: str, call: str) -> None:
    with Client(link.url, policy=policy, reconnect_s=60) as client:
        handle = client.submit([[1]], None, CONFIG)
        link.freeze()
        calls: dict[str, Callable[[], object]] = {
            "groups": lambda: list(handle.groups(timeout=LIMIT_S)),
            "generate": lambda: client.generate([[1]], None, CONFIG, timeout=LIMIT_S),
        }
        began = time.monotonic()
        with pytest.raises(ResultTimeoutError):
            calls[call]()
        assert time.monotonic() - began < LIMIT_S + LATE_S
        link.thaw()


async def test_no_time_limit_is_too_short_to_be_kept(trainer: AsyncClient) -> None:
    """redis-py forgets a cancellation that comes while it looks at an idle connection, and reads on to its end."""
    handle = await trainer.submit([[1]], None, CONFIG)
    for limit_s in (0, 1e-4, 2e-4, 3e-4, 5e-4, 1e-3) * 3:
        began = time.monotonic()
        with pytest.raises(ResultTimeoutError):
            await handle.wait(timeout=limit_s)
        assert time.monotonic() - began < LATE_S


async def test_a_time_limit_is_for_all_groups(trainer: AsyncClient, redis_url: str, policy: str) -> None:
    handle = await trainer.submit([[1], [2]], None, CONFIG)
    answering(redis_url, policy, handle).publish(result(handle, 1))
    groups = handle.groups(timeout=2)
    assert (await anext(groups)).group == 1
    await asyncio.sleep(2)  # the whole of it
    with pytest.raises(ResultTimeoutError, match="1 of 2 groups after 2 s") as late:
        await anext(groups)
    assert late.value.timeout_s == 2


async def test_the_error_of_a_batch_that_nobody_serves_says_so(
    redis_url: str, policy: str, stub_worker: WorkerProcess, trainer: AsyncClient, queue: Queue
) -> None:
    async with AsyncClient(redis_url, policy=f"{policy}-x") as other:
        with pytest.raises(ResultTimeoutError, match=f"no worker serves policy '{policy}-x': .*{policy}.* the name"):
            await other.generate([[1]], None, CONFIG, timeout=LIMIT_S)
    keys = Keys(policy, partitions=7)
    batch_id = next(name for name in map(str, range(99)) if keys.partition(name) == 5)
    async with AsyncClient(redis_url, policy=policy, partitions=7) as other:
        with pytest.raises(ResultTimeoutError, match=r"no worker reads partition 5, .*=7, .*--partitions 1;"):
            await other.generate([[1]], None, CONFIG, timeout=LIMIT_S, batch_id=batch_id)
    parked = await trainer.submit([[1]], None, CONFIG, min_policy_version=9)
    await asyncio.to_thread(wait_until_parked, stub_worker, queue, 9)
    with pytest.raises(ResultTimeoutError, match="for policy version 9, which nobody has published"):
        await parked.result(timeout=LIMIT_S)


@pytest.mark.usefixtures("soon")
async def test_a_wait_without_a_time_limit_warns_again_and_again(
    trainer: AsyncClient, queue: Queue, policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    handle = await trainer.submit([[1], [2]], None, CONFIG, batch_id="b")
    waiting = asyncio.create_task(handle.wait())
    await until_true(lambda: len(warnings(caplog)) >= 2)
    for warning in warnings(caplog)[:2]:
        assert warning.startswith(f"batch 'b', after N s: no worker serves policy '{policy}'")
    reporting(queue, "a\x1b[31m", 0, state="starting", model="math\x07-7b")
    await until_warned(caplog, "is starting")
    await handle.cancel()
    await waiting
    last = next(one for one in warnings(caplog) if "is starting" in one)
    assert last.endswith("no worker takes any now: a\\x1b[31m is starting, it loads math\\x07-7b")
    assert last.isprintable()


@pytest.mark.usefixtures("soon")
async def test_a_wait_for_groups_or_a_version_warns(
    trainer: AsyncClient, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    announce(queue, 2, "step-2")
    reporting(queue, "a", 1, policy_error="no folder of that name")
    handle = await trainer.submit([[1]], None, CONFIG)
    gate = StalenessGate(batch_samples=4, max_staleness=0)
    await gate.admit(4)
    calls: list[Any] = [anext(handle.groups()), trainer.wait_for_version(9), gate.admit(4)]
    waits = [asyncio.ensure_future(call) for call in calls]
    await until_true(lambda: len(set(warnings(caplog))) == 3)
    told = sorted(set(warnings(caplog)))
    assert told[0].startswith("admit 4 samples, after N s: <StalenessGate version 0: 4 of 4 submitted")
    assert told[1].endswith("1 of its 1 jobs waits until a worker has room; live: a")
    assert told[2] == (
        "policy version 9, after N s: served by 0 of 1 live workers, all wanted; a serves 1, refused: no folder of "
        "that name; nobody has published it, the newest is 2"
    )
    for one in waits:
        one.cancel()
    await asyncio.gather(*waits, return_exceptions=True)


@pytest.mark.usefixtures("soon")
async def test_a_call_that_redis_does_not_answer_is_told(
    faulty: AsyncClient, link: Link, caplog: pytest.LogCaptureFixture
) -> None:
    handle = await faulty.submit([[1]], None, CONFIG)
    link.drop()
    waits: list[asyncio.Task[Any]] = [asyncio.create_task(handle.done()), asyncio.create_task(handle.wait())]
    try:
        await until_warned(
            caplog,
            "count results, after N s: Redis at redis://127.0.0.1",
            f"batch '{handle.batch_id}', after N s: Redis does not answer",
        )
        link.restore()
        assert await waits[0] == 0
    finally:
        waits[1].cancel()
        await asyncio.gather(*waits, return_exceptions=True)
    assert {one.partition(",")[0] for one in warnings(caplog)} == {"count results", f"batch '{handle.batch_id}'"}


async def test_what_is_quick_is_not_told(trainer: AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    handle = await trainer.submit([[1]], None, CONFIG)
    with pytest.raises(ResultTimeoutError) as late:
        await handle.wait(timeout=0.01)
    assert late.value.waiting_for == ""
    await handle.cancel()
    await handle.wait(timeout=20)
    assert warnings(caplog) == []


async def test_publishing_through_the_store_warns_of_workers_that_were_started_without_it(
    redis_url: str, policy: str, queue: Queue, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reporting(queue, "a", 0, takes_checkpoints="1", takes_store="0")
    reporting(queue, "b", 0, takes_checkpoints="0", takes_store="1")

    async with AsyncClient(redis_url, policy=policy, weights=tmp_path) as trainer:
        await trainer.publish_policy(1, state_dict={"w": torch.zeros(4)})

    assert warnings(caplog) == [
        "policy version 1 was published, but worker a takes no versions from the weight store: start it with --weights",
    ]


async def test_publishing_warns_of_workers_that_cannot_serve_it(
    trainer: AsyncClient, queue: Queue, models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reporting(queue, "a", 0, takes_checkpoints="0", takes_adapters="1")
    reporting(queue, "b", 0, takes_checkpoints="1", takes_adapters="0")
    await trainer.publish_policy(1, checkpoint=models / "step-1")
    await trainer.publish_adapter("math", 0, lora(), lora_alpha=8)
    assert warnings(caplog) == [
        "policy version 1 was published, but worker a takes no published checkpoints: start it with --checkpoint-dir",
        "adapter math@0 was published, but worker b takes no published adapters: start it with --lora",
    ]
