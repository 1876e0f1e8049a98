"""Spans of this process, kept in memory: what a trainer with a provider of its own would have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter


class Memory:
    """A provider and what its spans became."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self._exporter.get_finished_spans())

    def one(self, name: str) -> ReadableSpan:
        (found,) = (span for span in self.spans if span.name == name)
        return found


@contextmanager
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[Memory]:
    """The library's calls in this process use this provider, which a process cannot take back once it has set it."""
    memory = Memory()
    with monkeypatch.context() as patched:
        patched.setattr(trace, "get_tracer_provider", lambda: memory.provider)
        yield memory
    memory.provider.shutdown()


def traceparent(span: ReadableSpan) -> str:
    context = _context(span)
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


def trace_of(span: ReadableSpan) -> str:
    return f"{_context(span).trace_id:032x}"


def parent_of(span: ReadableSpan) -> str | None:
    return None if span.parent is None else f"{span.parent.span_id:016x}"


def id_of(span: ReadableSpan) -> str:
    return f"{_context(span).span_id:016x}"


def links_of(span: ReadableSpan) -> list[str]:
    """The traces that it is linked to."""
    return [f"{link.context.trace_id:032x}" for link in span.links]


def attributes_of(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def _context(span: ReadableSpan) -> trace.SpanContext:
    context: trace.SpanContext | None = span.context
    assert context is not None
    return context
