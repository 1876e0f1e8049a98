"""A producer's spans of a batch: `submit`, whose trace context travels with the jobs, and `read`, in the same trace."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, TypeVar

from rollstream.schemas import Keys
from rollstream.schemas.wire.scores import Description
from rollstream.transport.traces.library import tracer
from rollstream.transport.traces.names import SYSTEM, Attribute, Convention, SpanName
from rollstream.transport.traces.spans import Attributes, Span

from ..errors import UnknownBatchError, UnreadableResultError
from ..redis_io.connection import Connection
from .ledger import read_description
from .submission import AnySubmission

S = TypeVar("S", bound=AnySubmission[Any])


@contextmanager
def submitting() -> Iterator[Span]:
    """The span of a submit: a child of the caller's current span, or the first of a trace."""
    span = tracer().start(SpanName.SUBMIT, role="producer")
    try:
        yield span
    except BaseException as error:
        span.fail(*_why(error))
        raise
    finally:
        span.end()


def described(span: Span, keys: Keys, batch: Description) -> None:
    """Note in the span of its submit which batch it is, and of what size."""
    span.note(
        {
            **_about(keys, batch, SpanName.SUBMIT, "send", keys.jobs(keys.partition(batch.batch_id))),
            Attribute.JOBS: batch.num_jobs,
            Convention.MESSAGE_COUNT: batch.num_jobs,
        }
    )


async def traceparent_of(span: Span, connection: Connection, keys: Keys, batch_id: str | None) -> str | None:
    """The trace context for the batch's jobs; None if the span is not recorded.

    A batch that another submit has begun stays in the trace of the first, which this span is linked to; `batch_id` is
    None if there can be no other. Raises `RedisUnavailableError`.
    """
    if span.traceparent is None or batch_id is None:
        return span.traceparent
    first: str | None = None
    with suppress(UnknownBatchError, UnreadableResultError):  # of the second the submit tells
        first = (await read_description(connection, keys, batch_id)).traceparent
    if first is None:
        return span.traceparent
    span.link(first)
    return first


def traced(submission: S, traceparent: str | None) -> S:
    """`submission` with this trace context, which is no part of its digest."""
    if traceparent is None:
        return submission
    return replace(
        submission,
        batch=submission.batch.model_copy(update={"traceparent": traceparent}),
        jobs=[(replace(envelope, traceparent=traceparent), payload) for envelope, payload in submission.jobs],
    )


class ReadSpan:
    """The span of one handle's reads: from the first call that waits for groups until the last group was read."""

    def __init__(self, *, keys: Keys, batch: Description, answered: Callable[[], int]) -> None:
        self._keys = keys
        self._batch = batch
        self._answered = answered
        self._began_ns: int | None = None
        self._is_over = False

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Around a call that reads. An error ends the span, and the next call begins another one."""
        if self._is_over:
            yield
            return
        began_ns = self._began_ns = self._began_ns or time.time_ns()
        try:
            yield
        except BaseException as error:
            self._began_ns = None
            self._record(began_ns, error)
            raise
        if not self._is_over and self._answered() == self._batch.num_groups:
            self._is_over = True
            self._record(began_ns)

    def _record(self, began_ns: int, error: BaseException | None = None) -> None:
        batch = self._batch
        about = _about(self._keys, batch, SpanName.READ, "receive", self._keys.results(batch.batch_id))
        span = tracer().start(
            SpanName.READ,
            parent=batch.traceparent,
            role="consumer",
            attributes={**about, Convention.MESSAGE_COUNT: self._answered()},
            at_ns=began_ns,
        )
        if error is not None:
            span.fail(*_why(error))
        span.end()


def _about(keys: Keys, batch: Description, operation: str, kind: str, key: str) -> Attributes:
    return {
        Attribute.POLICY: keys.policy,
        Attribute.BATCH_ID: batch.batch_id,
        Attribute.GROUPS: batch.num_groups,
        Convention.SYSTEM: SYSTEM,
        Convention.OPERATION: operation,
        Convention.OPERATION_TYPE: kind,
        Convention.DESTINATION: key,
    }


def _why(error: BaseException) -> tuple[str, str]:
    if isinstance(error, asyncio.CancelledError):
        return "given_up", "the call was cancelled, or its timeout passed; what is queued goes on"
    return type(error).__name__, str(error)
