"""A trainer with a provider of its own has its batches in its traces; the context of a submit travels with its jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from opentelemetry.trace import StatusCode

from rollstream import AsyncClient, BatchConflictError, Client, GenerationConfig, ResultTimeoutError
from rollstream.schemas import Keys
from rollstream.schemas.wire.envelope import Envelope
from tests.support.faults import Queue
from tests.support.watching.memory_traces import (
    Memory,
    attributes_of,
    id_of,
    links_of,
    parent_of,
    trace_of,
    traced,
    traceparent,
)
from tests.support.worker_process import WorkerProcess

CONFIG = GenerationConfig(max_new_tokens=4)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Memory]:
    with traced(monkeypatch) as memory:
        yield memory


def contexts(queue: Queue) -> set[str | None]:
    """The trace contexts of the entries."""
    return {Envelope.of(fields).traceparent for _, fields in queue.entries()}


async def test_a_submit_is_a_child_of_the_callers_span_and_travels_with_every_job(
    trainer: AsyncClient, memory: Memory, queue: Queue, policy: str
) -> None:
    with memory.provider.get_tracer("trainer").start_as_current_span("step"):
        handle = await trainer.submit([[5], [6], [7]], None, CONFIG, batch_id="b", prompts_per_job=2)

    submit, step = memory.one("submit"), memory.one("step")
    attributes = attributes_of(submit)
    assert parent_of(submit) == id_of(step)
    assert contexts(queue) == {traceparent(submit)} == {handle.batch.traceparent}
    assert attributes == {
        "rollstream.policy": policy,
        "rollstream.batch_id": "b",
        "rollstream.jobs": 2,
        "rollstream.groups": 3,
        "messaging.system": "redis",
        "messaging.operation.name": "submit",
        "messaging.operation.type": "send",
        "messaging.destination.name": Keys(policy).jobs(0),
        "messaging.batch.message_count": 2,
    }


def test_a_blocking_clients_submit_is_a_child_of_the_span_of_its_callers_thread(
    memory: Memory, policy: str, redis_url: str
) -> None:
    with Client(redis_url, policy=policy) as client, memory.provider.get_tracer("t").start_as_current_span("step"):
        client.submit([[5]], None, CONFIG)

    assert parent_of(memory.one("submit")) == id_of(memory.one("step"))


async def test_without_a_span_around_it_a_submit_is_the_first_of_a_trace(
    trainer: AsyncClient, memory: Memory, queue: Queue
) -> None:
    await trainer.submit([[5]], None, CONFIG)

    assert parent_of(memory.one("submit")) is None
    assert contexts(queue) == {traceparent(memory.one("submit"))}


async def test_without_a_provider_an_entry_has_no_trace_context(trainer: AsyncClient, queue: Queue) -> None:
    import opentelemetry.trace  # noqa: F401 - it is imported, as by vLLM, and nobody has set it up

    await trainer.submit([[5]], None, CONFIG)

    ((_, fields),) = queue.entries()
    assert b"traceparent" not in fields


async def test_a_submit_in_another_trace_is_the_same_batch_and_the_first_trace_stays(
    trainer: AsyncClient, memory: Memory, queue: Queue
) -> None:
    first = await trainer.submit([[5], [6]], None, CONFIG, batch_id="b", prompts_per_job=1)
    _, (last, _) = queue.entries()
    queue.redis.xdel(queue.jobs_key, last)  # as if the first submit had died before its second job
    queue.redis.hdel(queue.keys.ledger("b"), "job:1")

    again = await trainer.submit([[5], [6]], None, CONFIG, batch_id="b", prompts_per_job=1)
    attached = await trainer.attach("b")

    begun, repeated = (span for span in memory.spans if span.name == "submit")
    assert len(queue.entries()) == 2
    assert contexts(queue) == {traceparent(begun)}
    assert first.batch.traceparent == again.batch.traceparent == attached.batch.traceparent == traceparent(begun)
    assert trace_of(repeated) != trace_of(begun)
    assert links_of(repeated) == [trace_of(begun)]


async def test_a_traced_submit_of_an_untraced_batch_is_the_same_batch(
    trainer: AsyncClient, monkeypatch: pytest.MonkeyPatch, queue: Queue
) -> None:
    await trainer.submit([[5]], None, CONFIG, batch_id="b")

    with traced(monkeypatch):
        await trainer.submit([[5]], None, CONFIG, batch_id="b")

    assert len(queue.entries()) == 1
    assert contexts(queue) == {None}


async def test_a_submit_that_is_refused_is_an_error_of_its_span(trainer: AsyncClient, memory: Memory) -> None:
    await trainer.submit([[5]], None, CONFIG, batch_id="b")
    with pytest.raises(BatchConflictError):
        await trainer.submit([[6]], None, CONFIG, batch_id="b")

    refused = memory.spans[-1]
    assert refused.status.status_code is StatusCode.ERROR
    assert attributes_of(refused)["error.type"] == "BatchConflictError"


async def test_a_batch_that_was_read_has_one_span_in_the_trace_of_its_submit(
    trainer: AsyncClient, memory: Memory, stub_worker: WorkerProcess
) -> None:
    handle = await trainer.submit([[5 + row] for row in range(20)], None, CONFIG, prompts_per_job=1)
    async for _ in handle.groups(timeout=30):
        pass
    await handle.wait(timeout=30)
    other = await trainer.attach(handle.batch_id)
    await asyncio.gather(other.wait(timeout=30), other.wait(timeout=30))

    submit, *reads = memory.spans
    assert [span.name for span in reads] == ["read", "read"], "one of each handle"
    assert {parent_of(read) for read in reads} == {id_of(submit)}
    assert {trace_of(read) for read in reads} == {trace_of(submit)}
    assert attributes_of(reads[0])["messaging.batch.message_count"] == 20
    assert all(read.status.is_unset for read in reads)


async def test_a_wait_that_ends_before_its_batch_says_so(trainer: AsyncClient, memory: Memory) -> None:
    handle = await trainer.submit([[5]], None, CONFIG)
    with pytest.raises(ResultTimeoutError):
        await handle.wait(timeout=0.05)

    read = memory.one("read")
    assert attributes_of(read)["error.type"] == "given_up"
    assert read.status.status_code is StatusCode.ERROR


async def test_the_trace_of_an_untraced_batch_is_its_readers(
    trainer: AsyncClient, monkeypatch: pytest.MonkeyPatch, stub_worker: WorkerProcess
) -> None:
    handle = await trainer.submit([[5]], None, CONFIG)
    with traced(monkeypatch) as memory, memory.provider.get_tracer("trainer").start_as_current_span("step"):
        await handle.wait(timeout=30)

    assert parent_of(memory.one("read")) == id_of(memory.one("step"))
