"""Spans of OpenTelemetry's API. Imported only where a provider was found or made."""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from rollstream.schemas.errors import cut
from rollstream.schemas.printable import printable, without_credentials

from .names import Convention
from .spans import Attributes, Role, Span

SCOPE = "rollstream"
_KINDS: dict[Role, trace.SpanKind] = {
    "producer": trace.SpanKind.PRODUCER,
    "consumer": trace.SpanKind.CONSUMER,
    "internal": trace.SpanKind.INTERNAL,
}
_W3C = TraceContextTextMapPropagator()


class OtelSpan:
    """A span of a provider."""

    __slots__ = ("span",)

    def __init__(self, span: trace.Span) -> None:
        self.span = span

    @property
    def traceparent(self) -> str | None:
        """See `Span.traceparent`."""
        found = self.span.get_span_context()
        if not found.is_valid:
            return None
        return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags & 0xFF:02x}"

    @property
    def is_recorded(self) -> bool:
        """See `Span.is_recorded`."""
        return self.span.is_recording()

    def note(self, attributes: Attributes) -> None:
        """See `Span.note`."""
        self.span.set_attributes(attributes)

    def link(self, traceparent: str) -> None:
        """See `Span.link`."""
        other = trace.get_current_span(_read(traceparent)).get_span_context()
        if other.is_valid:
            self.span.add_link(other)

    def fail(self, kind: str, text: str) -> None:
        """See `Span.fail`. Without the traceback, which may hold a payload or a secret."""
        told = cut(without_credentials(printable(text)))
        self.span.add_event("exception", {"exception.type": kind, "exception.message": told})
        self.span.set_attribute(Convention.ERROR_TYPE, kind)
        self.span.set_status(trace.Status(trace.StatusCode.ERROR, told))

    def end(self, at_ns: int | None = None) -> None:
        """See `Span.end`."""
        self.span.end(at_ns)


class OtelTracer:
    """A tracer of `provider`."""

    def __init__(self, provider: trace.TracerProvider) -> None:
        self._tracer = provider.get_tracer(SCOPE)

    def start(
        self,
        name: str,
        *,
        parent: Span | str | None = None,
        role: Role = "internal",
        attributes: Attributes | None = None,
        at_ns: int | None = None,
    ) -> OtelSpan:
        """See `Tracer.start`."""
        span = self._tracer.start_span(
            name,
            context=_around(parent),
            kind=_KINDS[role],
            attributes=attributes,
            start_time=at_ns,
        )
        return OtelSpan(span)


def _around(parent: Span | str | None) -> Context | None:
    """The context that a span is started in; None: the caller's."""
    if parent is None:
        return None
    if isinstance(parent, OtelSpan):
        return trace.set_span_in_context(parent.span, Context())
    return _read(parent) if isinstance(parent, str) else Context()


def _read(traceparent: str) -> Context:
    return _W3C.extract({"traceparent": traceparent}, context=Context())


def is_set_up() -> bool:
    """Whether this process has a global provider."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
