"""The spans of one delivery of a job: how long it waited, was prepared, and what became of it and of each group."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self, TypeVar

from rollstream.schemas import Envelope, GroupResult, GroupScores, WireError
from rollstream.schemas.entry_id import EntryId
from rollstream.schemas.keys import GROUP
from rollstream.transport.traces.names import SYSTEM, Attribute, Convention, Outcome, SpanName
from rollstream.transport.traces.spans import NO_SPAN, NO_TRACER, Attributes, Span, Tracer

from ..delivery.lease import GroupCutError, Lease, LeaseEndedError
from ..errors import DataError
from .deadlines import RedisClock

_FENCED = "fenced"


A = TypeVar("A", GroupResult, GroupScores, GroupResult | GroupScores)


class GroupTrace:
    """A span of one group. Use as a context; an error that passes through it is recorded."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _where: TracebackType | None) -> None:
        """End the span."""

    def sampled(self, answer: A) -> A:
        """Note the tokens of the group, sampled or scored; returns the answer that names this span."""
        return answer

    def published(self, outcome: str) -> None:
        """Note what Redis did with the answer."""


class JobTrace:
    """The spans of one delivery. Use as a context around all that is done for it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _where: TracebackType | None) -> None:
        """End the spans."""

    def ending(self, outcome: Outcome) -> None:
        """Note how the delivery ends."""

    def failed(self, error: Exception) -> None:
        """Note why the job cannot be run here."""

    def prepared(self, plan: object, version: int) -> None:
        """Note that all is decided for its groups, or, if `plan` is a `DataError`, why they get none."""

    def group(self, _name: SpanName, _group: int, /) -> GroupTrace:
        """A span of this group."""
        return _UNTRACED_GROUP


class _Group(GroupTrace):
    def __init__(self, *, span: Span, trace: _Job) -> None:
        self._span = span
        self._trace = trace

    def __exit__(self, _kind: object, error: BaseException | None, _where: TracebackType | None) -> None:
        if error is not None:
            self._span.fail(*_why(error))
        self._span.end(self._trace.now_ns())

    def sampled(self, answer: A) -> A:
        spans = [span for of_one in answer.version_spans for span in of_one]
        versions = [version for version, _ in spans]
        self._span.note(
            {
                Attribute.TOKENS: sum(tokens for _, tokens in spans),
                **({Attribute.POLICY_VERSION: max(versions)} if versions else {}),
            }
        )
        traceparent = self._span.traceparent
        return answer if traceparent is None else answer.model_copy(update={"trace": traceparent})

    def published(self, outcome: str) -> None:
        self._span.note({Attribute.OUTCOME: outcome})
        if outcome == _FENCED:
            self._span.fail(_FENCED, "the lease was lost: the worker that has the job now answers the group")


class _Job(JobTrace):
    def __init__(self, *, tracer: Tracer, lease: Lease, common: Attributes, ahead_ns: int) -> None:
        self._tracer = tracer
        self._lease = lease
        self._common = common
        self._ahead_ns = ahead_ns
        self._job = self._prepare = NO_SPAN
        self._outcome: Outcome | None = None
        self._failed: tuple[str, str] | None = None
        """The first reason why its groups get no completions here."""

    def now_ns(self) -> int:
        """Unix nanoseconds by Redis' clock as it was when the delivery began: no span ends before it started."""
        return time.monotonic_ns() + self._ahead_ns

    def begin(self, envelope: Envelope | None, about: Attributes) -> JobTrace:
        """Start the spans; the one for the wait has ended already. Nothing is left to record if the trace is not."""
        parent, now = None if envelope is None else envelope.traceparent, self.now_ns()
        queued = min(now, int(EntryId.of(self._lease.entry_id).unix_s * 1e9))  # Redis' clock may have been set back
        self._job = self._tracer.start(
            SpanName.JOB, parent=parent, role="consumer", attributes={**self._common, **about}, at_ns=now
        )
        if not self._job.is_recorded:
            return UNTRACED
        wait = self._tracer.start(SpanName.QUEUE, parent=parent or self._job, attributes=self._common, at_ns=queued)
        wait.end(now)
        self._prepare = self._tracer.start(SpanName.PREPARE, parent=self._job, attributes=self._common, at_ns=now)
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _where: TracebackType | None) -> None:
        if error is not None:
            self._note_failure(error)
        elif self._outcome is Outcome.LEFT:
            self._note_failure(LeaseEndedError())
        elif self._lease.stopped is not None:  # cancelled, past a deadline, too stale
            self._note_failure(self._lease.stopped)
        # With an error the worker ends, and gives back what it holds.
        self._job.note({Attribute.OUTCOME: self._outcome or Outcome.GIVEN_BACK})
        self._end_prepare()
        self._end(self._job)

    def ending(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def failed(self, error: Exception) -> None:
        self._note_failure(error)

    def prepared(self, plan: object, version: int) -> None:
        self._job.note({Attribute.POLICY_VERSION: version})
        if isinstance(plan, DataError):
            self._note_failure(plan)
        self._end_prepare()

    def _note_failure(self, error: BaseException) -> None:
        self._failed = self._failed or _why(error)

    def _end_prepare(self) -> None:
        self._end(self._prepare)
        self._prepare = NO_SPAN

    def _end(self, span: Span) -> None:
        if self._failed is not None:
            span.fail(*self._failed)
        span.end(self.now_ns())

    def group(self, name: SpanName, group: int, /) -> GroupTrace:
        attributes = {**self._common, Attribute.GROUP: group}
        span = self._tracer.start(name, parent=self._job, attributes=attributes, at_ns=self.now_ns())
        return _Group(span=span, trace=self)


_UNTRACED_GROUP = GroupTrace()
UNTRACED = JobTrace()
"""Records nothing."""


class JobTraces:
    """Starts the traces of the jobs of one policy. All spans of a worker have the time of Redis' clock, so those of
    several workers fit together whatever their own clocks say.
    """

    def __init__(self, *, tracer: Tracer, policy: str, clock: RedisClock) -> None:
        self._tracer = tracer
        self._policy = policy
        self._clock = clock

    def begin(self, lease: Lease, fields: Mapping[bytes, bytes]) -> JobTrace:
        """The trace of a delivery of the entry with these fields, from now on."""
        if self._tracer is NO_TRACER:
            return UNTRACED
        try:
            envelope = Envelope.of(fields)
        except WireError:
            envelope = None
        common: dict[str, str | int] = {
            Attribute.POLICY: self._policy, Attribute.WORKER: lease.consumer, Attribute.DELIVERY: lease.delivery,
        }  # fmt: skip
        about: dict[str, str | int] = {
            Convention.SYSTEM: SYSTEM, Convention.OPERATION: SpanName.JOB, Convention.OPERATION_TYPE: "process",
            Convention.DESTINATION: lease.jobs_key, Convention.MESSAGE_ID: lease.entry_id,
            Convention.CONSUMER_GROUP: GROUP,
        }  # fmt: skip
        if envelope is not None:
            common |= {Attribute.BATCH_ID: envelope.batch_id, Attribute.JOB: envelope.job}
            about[Attribute.GROUPS] = envelope.job_groups
        ahead_ns = int(self._clock.now() * 1e9) - time.monotonic_ns()
        return _Job(tracer=self._tracer, lease=lease, common=common, ahead_ns=ahead_ns).begin(envelope, about)


def _why(error: BaseException) -> tuple[str, str]:
    """The kind of an error, and a text for people."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    match error:
        case DataError():
            return error.code.value, error.message
        case GroupCutError():
            return "cut", "the group was cut: the batch needs it no more, or it has its answer from elsewhere"
        case LeaseEndedError():
            return "lease_ended", "the lease ended: the worker that has the next delivery answers what is left"
        case asyncio.CancelledError():
            return "interrupted", "the worker ended first: the job is given back"
        case _:
            return type(error).__name__, str(error)
