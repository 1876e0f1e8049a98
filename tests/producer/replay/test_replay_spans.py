"""A replay has a trace of its own, linked to that of the batch which it repeats."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from rollstream import AsyncClient, GenerationConfig
from rollstream.producer.redis_io.connection import Connection
from rollstream.producer.replay.criteria import ByBatch
from rollstream.producer.replay.replay import prepare, queue_replay, replay_dead
from rollstream.producer.replay.selection import Place
from rollstream.producer.scores.handle import handle_of
from rollstream.schemas import Envelope
from tests.support.faults import Queue
from tests.support.replaying import bury
from tests.support.watching.memory_traces import Memory, id_of, links_of, parent_of, trace_of, traced, traceparent
from tests.support.worker_process import WorkerProcess

CONFIG = GenerationConfig(max_new_tokens=4, seed=1)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Memory]:
    with traced(monkeypatch) as memory:
        yield memory


@pytest.fixture
async def connection(redis_url: str) -> AsyncIterator[Connection]:
    connection = Connection(access=redis_url, reconnect_s=5)
    yield connection
    await connection.aclose()


async def test_a_replay_is_a_trace_of_its_own_with_a_link(
    trainer: AsyncClient, connection: Connection, queue: Queue, memory: Memory, stub_worker: WorkerProcess
) -> None:
    await (await trainer.submit([[5], [6]], None, CONFIG, batch_id="b", prompts_per_job=1)).wait(timeout=30)
    prepared = await prepare(connection, queue.keys, ByBatch(batch_id="b"), lambda _: "again")
    replay = await queue_replay(connection, queue.keys, prepared.replays[0])
    await handle_of(connection, queue.keys, replay.batch).wait(timeout=30)

    original, _, repeated, read = memory.spans
    envelopes = [Envelope.of(fields) for _, fields in queue.entries()]
    assert trace_of(repeated) != trace_of(original)
    assert links_of(repeated) == [trace_of(original)]
    assert parent_of(read) == id_of(repeated)
    assert {envelope.traceparent for envelope in envelopes if envelope.batch_id == "again"} == {traceparent(repeated)}


async def test_a_replay_that_goes_on_stays_in_the_trace_that_it_began(
    trainer: AsyncClient, connection: Connection, queue: Queue, memory: Memory
) -> None:
    await trainer.submit([[5], [6]], None, CONFIG, batch_id="b", prompts_per_job=1)
    queued = []
    for _ in range(2):
        prepared = await prepare(connection, queue.keys, ByBatch(batch_id="b"), lambda _: "again")
        queued.append(await queue_replay(connection, queue.keys, prepared.replays[0]))

    original, begun, continued = memory.spans
    assert {replay.batch.traceparent for replay in queued} == {traceparent(begun)}
    assert links_of(continued) == [trace_of(original), trace_of(begun)]


async def test_a_dead_letter_that_is_queued_again_is_linked_to_its_batch(
    trainer: AsyncClient, connection: Connection, queue: Queue, memory: Memory
) -> None:
    await trainer.submit([[5]], None, CONFIG, batch_id="b")
    ((_, fields),) = queue.entries()
    letter = bury(queue, "b", "gave up", fields[b"payload"], "12-3")

    await replay_dead(connection, queue.keys, [Place(stream=queue.keys.dead(0), entry_id=letter)], "b.requeue-1")

    original, requeued = memory.spans
    assert links_of(requeued) == [trace_of(original)]
