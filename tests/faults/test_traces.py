"""A batch is one trace over processes and takeovers; a collector that is away, or a missing extra, stops nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import cast

import pytest

from rollstream import Client, GroupResult
from rollstream.schemas import Envelope
from tests.support.fault_steps import (
    kill,
    stub,
    stub_flags,
    tokens,
    wait_until_done,
)
from tests.support.faults import Queue, audit
from tests.support.watching.memory_traces import Memory, id_of, trace_of, traced
from tests.support.watching.otlp_sink import Received, Sink
from tests.support.worker_process import WorkerProcess, running_worker, wait_for

HOUR_MS = "3600000"


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as sink:
        yield sink


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Memory]:
    with traced(monkeypatch) as memory:
        yield memory


def of(spans: list[Received], worker: WorkerProcess) -> list[Received]:
    return [span for span in spans if f"-{worker.process.pid}-" in span.attributes["rollstream.worker"]]


def told(span: Received) -> tuple[int, object, object]:
    """Its delivery, its outcome and the kind of its error."""
    return span.delivery, span.attributes.get("rollstream.outcome"), span.attributes.get("error.type")


def published(sink: Sink) -> list[Received]:
    return [span for span in sink.named("publish") if told(span)[1] == "published"]


def is_generating(queue: Queue) -> bool:
    """Whether a group runs, by the report of the only worker."""
    (name,) = cast("list[bytes]", queue.redis.zrange(queue.keys.workers(), 0, -1))
    return int(cast("bytes", queue.redis.hget(queue.keys.worker(name.decode()), "running_sequences"))) > 0


def wait_until_all_are_there(sink: Sink, groups: int) -> None:
    """The last spans of a batch: a job that is answered, and the publish of so many groups."""

    def is_there() -> bool:
        is_over = any(told(span)[1] == "answered" for span in sink.named("job"))
        return is_over and len(published(sink)) >= groups

    wait_for(is_there, 30, lambda: f"{[(span.name, told(span)) for span in sink.spans]}")


def test_a_worker_that_lost_its_lease_and_the_next_are_in_the_trace_of_the_batch(
    redis_url: str, policy: str, client: Client, queue: Queue, sink: Sink, memory: Memory
) -> None:
    slow, fast = stub_flags(group_s=60.0), stub_flags()
    with running_worker(redis_url, policy, *slow, env=sink.env) as first:
        batch = client.submit([[5], [6]], None, tokens())
        wait_for(lambda: is_generating(queue), 30, lambda: first.log)
        with running_worker(redis_url, policy, *fast, env=sink.env) as second:
            os.kill(first.process.pid, signal.SIGSTOP)
            wait_until_done(queue, batch.batch_id, 2, second)
            os.kill(first.process.pid, signal.SIGCONT)
            batch.wait(timeout=30)
            wait_until_all_are_there(sink, 2)
            wait_for(lambda: any(span.delivery == 1 for span in sink.named("job")), 30, lambda: first.log)
            left, *_, answered = sorted(sink.named("job"), key=lambda span: span.delivery)

    submit, read = memory.one("submit"), memory.one("read")
    spans = sink.spans
    assert {span.trace for span in spans} == {trace_of(submit)} == {trace_of(read)}
    last = answered.delivery  # 2, unless the second worker stood still for a lease, too
    assert (told(left), told(answered)) == ((1, "left", "lease_ended"), (last, "answered", None))
    assert last >= 2
    assert (of([left], first), of([answered], second)) == ([left], [answered])
    assert {span.parent for span in spans if span.name in ("queue", "job")} == {id_of(submit)}
    parents = {span.delivery: span.span for span in sink.named("job")}
    assert all(span.parent == parents[span.delivery] for span in spans if span.name not in ("queue", "job"))
    generated = [span for span in sink.named("generate") if not span.is_error]
    assert {span.attributes["rollstream.tokens"] for span in generated} == {10}
    assert (1, True) in {(span.delivery, span.is_error) for span in sink.named("generate")}
    assert sorted(span.attributes["rollstream.group"] for span in published(sink)) == [0, 1]
    answers = [answer for answer in audit(redis_url, policy, batch.batch_id, 2) if isinstance(answer, GroupResult)]
    assert {(answer.trace or "")[3:52] for answer in answers} <= {f"{span.trace}-{span.span}" for span in generated}
    assert len(answers) == 2


def test_what_a_killed_worker_had_sent_and_what_the_next_sends_are_one_trace(
    redis_url: str, policy: str, client: Client, queue: Queue, sink: Sink, memory: Memory
) -> None:
    with running_worker(redis_url, policy, *stub_flags(group_s=0.3, at_once=1), env=sink.env) as first:
        batch = client.submit([[5 + row] for row in range(8)], None, tokens())
        sink.wait_for("publish")
        kill(first)
    before = len(sink.named("publish"))
    with running_worker(redis_url, policy, *stub_flags(), env=sink.env) as second:
        wait_until_done(queue, batch.batch_id, 8, second)
        wait_until_all_are_there(sink, before)  # what the first had published and not sent is lost with it

    jobs = sink.named("job")
    assert {span.trace for span in sink.spans} == {trace_of(memory.one("submit"))}
    assert of(jobs, first) == [], "what a worker had not ended is lost with it"
    assert told(jobs[-1]) == (jobs[-1].delivery, "answered", None)
    assert {span.delivery for span in sink.named("publish")[:before]} == {1}
    assert min(span.delivery for span in of(sink.spans, second)) == 2


def test_a_worker_that_drains_sends_all_it_has(
    redis_url: str, policy: str, client: Client, queue: Queue, sink: Sink, memory: Memory
) -> None:
    env = {**sink.env, "OTEL_BSP_SCHEDULE_DELAY": HOUR_MS}
    with running_worker(redis_url, policy, "--grace-s", "0", *stub_flags(group_s=60.0), env=env) as first:
        batch = client.submit([[5]], None, tokens())
        wait_for(lambda: is_generating(queue), 30, lambda: first.log)
        assert sink.spans == []
        assert first.terminate() == 0, first.log
    with running_worker(redis_url, policy, *stub_flags(), env=env) as second:
        wait_until_done(queue, batch.batch_id, 1, second)
        assert second.terminate() == 0, second.log

    assert [told(span) for span in sink.named("job")] == [(1, "given_back", "interrupted"), (1, "answered", None)]
    assert [told(span)[2] for span in sink.named("generate")] == ["interrupted", None]
    assert {span.trace for span in sink.spans} == {trace_of(memory.one("submit"))}
    assert {span.resource["service.name"] for span in sink.spans} == {"rollstream-worker"}


def test_a_dead_letter_and_a_bad_prompt_are_errors_of_their_spans(
    redis_url: str, policy: str, client: Client, queue: Queue, sink: Sink
) -> None:
    envelope = Envelope(batch_id="x", job=0, first_group=0, job_groups=1, num_groups=1, traceparent=None)
    fields = {**envelope.fields(b"no job"), b"traceparent": b"\xff\x1b[2J"}
    with running_worker(redis_url, policy, *stub_flags(), env=sink.env) as worker:
        queue.redis.xadd(queue.jobs_key, fields)  # type: ignore[arg-type] # redis-py's types want str or bytes in each
        batch = client.submit([[5], [5000]], None, tokens())
        wait_until_done(queue, batch.batch_id, 2, worker)
        sink.wait_for("job", 2)

    dead, answered = sorted(sink.named("job"), key=lambda span: span.attributes["rollstream.batch_id"], reverse=True)
    assert told(dead) == (1, "dead", "unreadable_job")
    assert told(answered) == (1, "answered", None)
    assert dead.trace != answered.trace
    assert {span.attributes.get("error.type") for span in sink.named("generate")} == {None, "token_out_of_vocabulary"}


def test_a_collector_that_is_away_changes_nothing_but_a_line_in_the_log(
    redis_url: str, policy: str, client: Client, queue: Queue
) -> None:
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20hunter2",
        "OTEL_BSP_SCHEDULE_DELAY": "10",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
    }
    with running_worker(redis_url, policy, *stub_flags(), env=env) as worker:
        batch = client.submit([[5 + row] for row in range(20)], None, tokens(), prompts_per_job=1)
        wait_until_done(queue, batch.batch_id, 20, worker)
        assert worker.terminate() == 0, worker.log

    assert len(audit(redis_url, policy, batch.batch_id, 20)) == 20
    assert worker.log.count("spans may be lost") == 1, worker.log
    assert "Traceback" not in worker.log
    assert "hunter2" not in worker.log


def test_without_variables_a_worker_sends_nothing(redis_url: str, policy: str, client: Client, queue: Queue) -> None:
    with stub(redis_url, policy) as worker:
        batch = client.submit([[5]], None, tokens())
        wait_until_done(queue, batch.batch_id, 1, worker)

    (answer,) = audit(redis_url, policy, batch.batch_id, 1)
    assert isinstance(answer, GroupResult)
    assert answer.trace is None
