"""Each way in which a delivery ends is told by its spans, in the trace of its batch and by Redis' clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from rollstream.schemas import Envelope, ErrorCode
from rollstream.transport.traces.names import Outcome, SpanName
from rollstream.transport.traces.otel import OtelTracer
from rollstream.transport.traces.spans import NO_TRACER
from rollstream.worker.delivery.lease import Lease, LeaseEndedError
from rollstream.worker.errors import DataError, EngineDiedError
from rollstream.worker.jobs.deadlines import RedisClock
from rollstream.worker.jobs.job_trace import UNTRACED, JobTrace, JobTraces
from tests.support.watching.memory_traces import Memory, attributes_of, id_of, parent_of, trace_of

TRACE, SPAN = "4b" * 16, "0a" * 8
ENVELOPE = Envelope(batch_id="b", job=3, first_group=6, job_groups=2, num_groups=9, traceparent=f"00-{TRACE}-{SPAN}-01")
REFUSED = DataError(ErrorCode.INVALID_CONFIG, "config", "no such thing")
CANCELLED = DataError(ErrorCode.CANCELLED, "batch", "the batch was cancelled")


def lease_of(delivery: int = 1, queued_s: float = 5.0) -> Lease:
    entry_id = f"{int((time.time() - queued_s) * 1000)}-0"
    return Lease(
        jobs_key="rs:{p:0}:jobs",
        dead_key="rs:{p:0}:dead",
        entry_id=entry_id,
        consumer="w1",
        delivery=delivery,
        ends_at=time.monotonic() + 30,
    )


def run(
    lease: Lease,
    what: Callable[[JobTrace], object],
    outcome: Outcome = Outcome.ANSWERED,
    fields: dict[bytes, bytes] | None = None,
) -> Memory:
    """The spans of a delivery in which `what` happens before it ends so."""
    memory = Memory()
    traces = JobTraces(tracer=OtelTracer(memory.provider), policy="p", clock=RedisClock())
    try:
        with traces.begin(lease, ENVELOPE.fields(b"") if fields is None else fields) as trace:
            what(trace)
            trace.ending(outcome)
    except (asyncio.CancelledError, ExceptionGroup):
        pass
    return memory


def raising(error: BaseException) -> Callable[[JobTrace], object]:
    def raise_it(_trace: JobTrace) -> None:
        raise error

    return raise_it


def status(span: ReadableSpan) -> tuple[object, object]:
    """The kind of its error, and its outcome."""
    attributes = attributes_of(span)
    is_error = span.status.status_code is StatusCode.ERROR
    assert is_error == ("error.type" in attributes)
    assert is_error == bool(span.status.description)
    return attributes.get("error.type"), attributes.get("rollstream.outcome")


@pytest.mark.parametrize(
    ("what", "outcome", "told"),
    [
        (lambda trace: trace.prepared(object(), 4), Outcome.ANSWERED, (None, "answered")),
        (lambda trace: trace.prepared(REFUSED, 4), Outcome.ANSWERED, ("invalid_config", "answered")),
        (lambda _: None, Outcome.PARKED, (None, "parked")),
        (lambda _: None, Outcome.GIVEN_BACK, (None, "given_back")),
        (lambda _: None, Outcome.LEFT, ("lease_ended", "left")),
        (lambda trace: trace.failed(ValueError("no map")), Outcome.DEAD, ("ValueError", "dead")),
        (raising(asyncio.CancelledError()), Outcome.ANSWERED, ("interrupted", "given_back")),
        (
            raising(ExceptionGroup("", [EngineDiedError("gone")])),
            Outcome.ANSWERED,
            ("EngineDiedError", "given_back"),
        ),
    ],
    ids=["answered", "refused", "parked", "given back", "left", "dead", "drained", "engine died"],
)
def test_the_span_of_a_delivery_says_how_it_ended(
    what: Callable[[JobTrace], object], outcome: Outcome, told: tuple[str | None, str]
) -> None:
    assert status(run(lease_of(), what, outcome).one("job")) == told


def test_a_job_that_nobody_wants_any_more_says_why() -> None:
    lease = lease_of()

    assert status(run(lease, lambda _: lease.stop(CANCELLED)).one("job")) == ("cancelled", "answered")


def test_an_error_before_the_groups_is_one_of_preparing() -> None:
    spans = run(lease_of(), lambda trace: trace.prepared(REFUSED, 0))

    assert status(spans.one("prepare"))[0] == "invalid_config"


def test_an_error_of_a_group_is_none_of_preparing() -> None:
    spans = run(lease_of(), lambda trace: trace.prepared(object(), 1), Outcome.LEFT)

    assert status(spans.one("prepare")) == (None, None)


def test_all_spans_of_a_delivery_are_in_the_trace_of_its_batch() -> None:
    def answer(trace: JobTrace) -> None:
        trace.prepared(object(), 7)
        with trace.group(SpanName.GENERATE, 6), pytest.raises(DataError), trace.group(SpanName.GENERATE, 7):
            raise REFUSED
        with trace.group(SpanName.PUBLISH, 6) as span:
            span.published("duplicate")

    memory = run(lease_of(delivery=2), answer)

    job = memory.one("job")
    parents = {(span.name, parent_of(span)) for span in memory.spans}
    assert {trace_of(span) for span in memory.spans} == {TRACE}
    assert parents == {
        ("queue", SPAN), ("job", SPAN), ("prepare", id_of(job)), ("generate", id_of(job)), ("publish", id_of(job)),
    }  # fmt: skip
    common = {
        "rollstream.policy": "p", "rollstream.worker": "w1", "rollstream.delivery": 2, "rollstream.batch_id": "b",
        "rollstream.job": 3,
    }  # fmt: skip
    assert all(attributes_of(span).items() >= common.items() for span in memory.spans)
    assert attributes_of(job)["rollstream.policy_version"] == 7
    failed, generated = (span for span in memory.spans if span.name == "generate")
    assert (attributes_of(generated)["rollstream.group"], attributes_of(failed)["rollstream.group"]) == (6, 7)
    assert (status(generated), status(failed)) == ((None, None), ("invalid_config", None))
    assert status(memory.one("publish")) == (None, "duplicate")


def test_a_fenced_answer_and_a_group_that_is_left_say_so() -> None:
    def lose(trace: JobTrace) -> None:
        with trace.group(SpanName.PUBLISH, 6) as span:
            span.published("fenced")
        with pytest.raises(LeaseEndedError), trace.group(SpanName.GENERATE, 7):
            raise LeaseEndedError

    memory = run(lease_of(), lose)

    assert status(memory.one("publish")) == ("fenced", "fenced")
    assert status(memory.one("generate"))[0] == "lease_ended"


def test_the_wait_in_the_queue_is_told_by_redis_clock() -> None:
    before = time.time_ns()
    memory = run(lease_of(queued_s=5), lambda _: None)

    queue, job = memory.one("queue"), memory.one("job")
    assert queue.start_time is not None
    assert job.start_time is not None
    assert 0 < before - queue.start_time <= job.start_time - queue.start_time
    assert queue.end_time == job.start_time


def test_an_entry_of_the_future_has_not_waited() -> None:
    queue = run(lease_of(queued_s=-3600), lambda _: None).one("queue")

    assert queue.start_time == queue.end_time


@pytest.mark.parametrize("traceparent", [b"", b"00-xyz", f"ff-{TRACE}-{SPAN}-01".encode(), b"00-" + b"0" * 52])
def test_a_job_without_a_trace_that_can_be_read_has_one_of_its_own(traceparent: bytes) -> None:
    memory = run(lease_of(), lambda _: None, fields={**ENVELOPE.fields(b""), b"traceparent": traceparent})

    job = memory.one("job")
    assert parent_of(job) is None
    assert {trace_of(span) for span in memory.spans} == {trace_of(job)} != {TRACE}
    assert {parent_of(span) for span in memory.spans if span is not job} == {id_of(job)}


def test_an_entry_that_cannot_be_read_has_spans_too() -> None:
    missing = ValueError("field 'job' is missing")
    memory = run(lease_of(), lambda trace: trace.failed(missing), Outcome.DEAD, {b"batch": b"b"})

    assert status(memory.one("job")) == ("ValueError", "dead")


def test_an_error_in_a_span_holds_no_login_and_no_traceback() -> None:
    error = ValueError("redis://:hunter2@10.0.0.5 \x1b[2J refused")
    (event,) = run(lease_of(), lambda trace: trace.failed(error)).one("job").events

    assert dict(event.attributes or {}) == {
        "exception.type": "ValueError",
        "exception.message": "redis://***@10.0.0.5 \\x1b[2J refused",
    }


def test_a_batch_that_is_not_sampled_costs_its_groups_nothing() -> None:
    memory = Memory()
    traces = JobTraces(tracer=OtelTracer(memory.provider), policy="p", clock=RedisClock())
    unsampled = Envelope(
        batch_id="b", job=0, first_group=0, job_groups=1, num_groups=1, traceparent=f"00-{TRACE}-{SPAN}-00"
    )

    assert traces.begin(lease_of(), unsampled.fields(b"")) is UNTRACED
    assert memory.spans == []


def test_a_tracer_that_is_off_makes_nothing() -> None:
    traces = JobTraces(tracer=NO_TRACER, policy="p", clock=RedisClock())

    assert traces.begin(lease_of(), {}) is UNTRACED
    assert UNTRACED.group(SpanName.GENERATE, 1) is UNTRACED.group(SpanName.PUBLISH, 2)
