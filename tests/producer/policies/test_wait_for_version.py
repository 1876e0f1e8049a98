"""A producer that waits for a version gets it or learns why not; a batch says which versions may sample it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from rollstream import (
    Activate,
    AsyncClient,
    BatchConflictError,
    Client,
    GenerationConfig,
    VersionBoundError,
    VersionTimeoutError,
    VersionWaitError,
)
from rollstream.schemas import Job, decode
from tests.support.faults import Queue
from tests.support.reports import report_of
from tests.support.weights.publishing import lora, reporting
from tests.support.weights.versions import announce

CONFIG = GenerationConfig(max_new_tokens=4)


# Waiting


async def test_waiting_ends_once_enough_workers_serve_the_version_or_a_newer_one(
    trainer: AsyncClient, queue: Queue
) -> None:
    announce(queue, 3, "step-3")
    reporting(queue, "a", 3)
    waits = [asyncio.create_task(trainer.wait_for_version(2, workers, 30)) for workers in (1, 2, "all")]
    await asyncio.wait_for(asyncio.gather(waits[0], waits[2]), 10)
    reporting(queue, "b", 1)
    every = asyncio.create_task(trainer.wait_for_version(2, "all", 30))
    assert not (await asyncio.wait([waits[1], every], timeout=0.5))[0]
    reporting(queue, "b", 2)
    await asyncio.wait_for(asyncio.gather(waits[1], every), 10)


async def test_waiting_in_vain_names_the_workers_behind_and_why(trainer: AsyncClient, queue: Queue) -> None:
    announce(queue, 2, "step-2")
    reporting(queue, "a", 2)
    reporting(queue, "b", 1, policy_error="no folder of that name")
    reporting(queue, "c", 0)
    with pytest.raises(VersionTimeoutError) as late:
        await trainer.wait_for_version(2, timeout=1.0)
    error = late.value
    assert error.behind == {"b": (1, "no folder of that name"), "c": (0, "")}
    assert (error.version, error.live, error.there, error.timeout_s) == (2, 3, 1, 1.0)
    assert str(error) == (
        "policy version 2 after 1 s: served by 1 of 3 live workers, all wanted; "
        "b serves 1, refused: no folder of that name; c serves 0"
    )


async def waited(trainer: AsyncClient, version: int) -> str:
    with pytest.raises(VersionTimeoutError) as late:
        await trainer.wait_for_version(version, timeout=0.3)
    return str(late.value)


async def test_a_version_that_nobody_activated_is_not_served(trainer: AsyncClient, models: Path, queue: Queue) -> None:
    await trainer.publish_policy(1, checkpoint=models / "step-1")
    await trainer.publish_policy(2, checkpoint=models / "step-2", activate="by_hand")
    reporting(queue, "a", 1, prepared_version="2")
    await trainer.wait_for_version(1, timeout=30)
    told = "a serves 1; it is announced and waits for client.activate(2) or `rollstream activate 2`"
    assert (await waited(trainer, 2)).endswith(told)
    reporting(queue, "a", 2)  # of streams that are gone
    assert "served by 0 of 1" in await waited(trainer, 2)
    await trainer.activate(2)
    await trainer.wait_for_version(2, timeout=30)


async def test_waiting_says_how_many_workers_have_prepared_a_version(
    trainer: AsyncClient, models: Path, queue: Queue
) -> None:
    terms = Activate(when="when_prepared", share=0.75, timeout_s=90.0)
    await trainer.publish_policy(3, checkpoint=models / "step-1", activate=terms)
    for name, prepared in (("a", "3"), ("b", "0"), ("c", "3"), ("leaving", "3")):
        reporting(queue, name, 0, prepared_version=prepared, state="draining" if name == "leaving" else "serving")
    assert (await waited(trainer, 2)).endswith(
        "version 3 is announced and becomes active once 75% of the live workers have prepared it, 2 of 3 have, "
        "or 90 s after its announcement"
    )


@pytest.mark.parametrize("workers", ["all", 1])
async def test_without_a_live_worker_nothing_is_served(trainer: AsyncClient, queue: Queue, workers: Any) -> None:
    with pytest.raises(VersionTimeoutError, match=r"served by 0 of 0 live workers, .* is one started") as late:
        await trainer.wait_for_version(1, workers, timeout=1.0)
    assert (late.value.live, late.value.behind) == (0, {})


async def test_a_worker_that_dies_or_drains_is_waited_for_no_more(trainer: AsyncClient, queue: Queue) -> None:
    announce(queue, 2, "step-2")
    reporting(queue, "alive", 2)
    reporting(queue, "dying", 1)
    waiting = asyncio.create_task(trainer.wait_for_version(2, timeout=30))
    assert not (await asyncio.wait([waiting], timeout=0.3))[0]
    queue.redis.pexpire(queue.keys.worker("dying"), 1)
    await asyncio.wait_for(waiting, 30)
    reporting(queue, "leaving", 1, state="draining")
    await trainer.wait_for_version(2, timeout=30)
    reporting(queue, "alive", 1, state="draining")
    with pytest.raises(VersionTimeoutError, match="0 of 0 live"):
        await trainer.wait_for_version(1, timeout=1.0)


async def test_a_worker_whose_version_is_of_a_stream_that_is_gone_is_not_counted(
    trainer: AsyncClient, queue: Queue
) -> None:
    reporting(queue, "a", 5, policy_sha256="a" * 64)
    for announced in (0, 1, 4, 5):
        if announced:
            announce(queue, announced, f"step-{announced}", "b" * 64)
        with pytest.raises(VersionTimeoutError) as late:
            await trainer.wait_for_version(1, timeout=0.6)
        assert late.value.behind == {"a": (5, "")}
    announce(queue, 6, "step-6", "b" * 64)
    reporting(queue, "a", 6, policy_sha256="b" * 64)
    await trainer.wait_for_version(6, timeout=30)


async def test_a_worker_that_reports_nonsense_is_behind(trainer: AsyncClient, queue: Queue) -> None:
    announce(queue, 2, "step-2")
    reporting(queue, "a", 2)
    report_of(queue.redis, queue.keys, "b", {"state": "serving", "policy_version": "9" * 5000})
    report_of(queue.redis, queue.keys, "c", {"state": "serving"})
    with pytest.raises(VersionTimeoutError) as late:
        await trainer.wait_for_version(2, timeout=1.0)
    assert late.value.behind == {"b": (-1, ""), "c": (-1, "")}


@pytest.mark.parametrize(
    ("version", "workers", "timeout"),
    [(-1, "all", 1), (True, "all", 1), ("1", "all", 1), (2**31, "all", 1), (1, 0, 1), (1, True, 1), (1, "some", 1),
     (1, 1.0, 1), (1, "all", -1), (1, "all", float("nan")), (1, "all", "1"), (1, "all", True)],
)  # fmt: skip
async def test_what_cannot_be_waited_for_is_refused(
    trainer: AsyncClient, version: Any, workers: Any, timeout: Any
) -> None:
    with pytest.raises(VersionWaitError):
        await trainer.wait_for_version(version, workers, timeout)


def test_the_blocking_client_publishes_and_waits(client: Client, models: Path, queue: Queue) -> None:
    assert client.publish_policy(1, checkpoint=models / "step-1").location == "step-1"
    assert client.publish_policy(2, checkpoint=models / "step-2").source == "checkpoint"
    assert client.publish_adapter("math", 0, lora(), lora_alpha=8) == "math@0"
    reporting(queue, "a", 2)
    client.wait_for_version(2, workers=1, timeout=30)
    with pytest.raises(VersionTimeoutError):
        client.wait_for_version(3, timeout=0.1)


# Version bounds of a batch


async def test_version_bounds_travel_with_each_job(trainer: AsyncClient, queue: Queue) -> None:
    await trainer.submit([[1], [2]], None, CONFIG, prompts_per_job=1, min_policy_version=7, max_staleness=0)
    await trainer.submit([[1]], None, CONFIG)
    jobs = [decode(fields[b"payload"], Job) for _, fields in queue.entries()]
    assert [(job.min_policy_version, job.max_staleness) for job in jobs] == [(7, 0), (7, 0), (0, None)]


async def test_generate_passes_version_bounds_on(trainer: AsyncClient, client: Client, queue: Queue) -> None:
    bounds: dict[str, Any] = {"min_policy_version": 3, "max_staleness": 2}
    with pytest.raises(Exception, match="0 of 1 groups after"):
        await trainer.generate([[1]], None, CONFIG, timeout=0.1, **bounds)
    with pytest.raises(Exception, match="0 of 1 groups after"):
        client.generate([[1]], None, CONFIG, timeout=0.1, **bounds)
    client.submit([[1]], None, CONFIG, **bounds)
    jobs = [decode(fields[b"payload"], Job) for _, fields in queue.entries()]
    assert [(job.min_policy_version, job.max_staleness) for job in jobs] == [(3, 2)] * 3


async def test_version_bounds_are_content(trainer: AsyncClient, queue: Queue) -> None:
    first = await trainer.submit([[1]], None, CONFIG, batch_id="b", min_policy_version=1, max_staleness=1)
    again = await trainer.submit([[1]], None, CONFIG, batch_id="b", min_policy_version=1, max_staleness=1)
    assert again == first
    for bounds in ({"min_policy_version": 2, "max_staleness": 1}, {"min_policy_version": 1}, {"max_staleness": 1}):
        with pytest.raises(BatchConflictError):
            await trainer.submit([[1]], None, CONFIG, batch_id="b", **cast("Any", bounds))
    assert len(queue.entries()) == 1


@pytest.mark.parametrize("value", [-1, True, 1.0, "1", 2**31, 10**50])
@pytest.mark.parametrize("name", ["min_policy_version", "max_staleness"])
async def test_a_bound_that_is_no_version_is_refused_before_anything_is_queued(
    trainer: AsyncClient, queue: Queue, name: str, value: Any
) -> None:
    with pytest.raises(VersionBoundError, match=f"{name} .*: give an integer from 0") as refused:
        await trainer.submit([[1]], None, CONFIG, **{name: value})
    assert (refused.value.name, refused.value.value) == (name, value)
    assert queue.entries() == []
