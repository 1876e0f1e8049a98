"""What the rest of the code knows of tracing: a tracer that starts spans. The one that is off does nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

Value = str | int | float | bool
Attributes = Mapping[str, Value]
Role = Literal["producer", "consumer", "internal"]
"""Whether the span sends messages, receives them, or neither."""


class Span(Protocol):
    """Something that takes time. It is sent once it has ended, so each one must be ended."""

    @property
    def traceparent(self) -> str | None:
        """Its W3C trace context, for spans of other processes; None if there is none to go on from."""

    @property
    def is_recorded(self) -> bool:
        """Whether it will be sent: spans below one that is not need not be started."""

    def note(self, attributes: Attributes) -> None:
        """Add attributes, before it ends."""

    def link(self, traceparent: str) -> None:
        """Note the trace context of another span that it has to do with."""

    def fail(self, kind: str, text: str) -> None:
        """Record an error of this kind, and end with the status `error`. The last one stays."""

    def end(self, at_ns: int | None = None) -> None:
        """End it, now or at unix nanoseconds `at_ns`."""


class Tracer(Protocol):
    """Starts spans."""

    def start(
        self,
        name: str,
        *,
        parent: Span | str | None = None,
        role: Role = "internal",
        attributes: Attributes | None = None,
        at_ns: int | None = None,
    ) -> Span:
        """Start a span, now or at unix nanoseconds `at_ns`.

        `parent`: a span of this process, or the trace context of another's; None: the caller's current span, and
        without one it is the first of a trace. A context that cannot be read counts as none.
        """


class NoSpan:
    """A span that is not recorded."""

    traceparent: str | None = None
    is_recorded = False

    def note(self, attributes: Attributes) -> None:
        """Do nothing."""

    def link(self, traceparent: str) -> None:
        """Do nothing."""

    def fail(self, kind: str, text: str) -> None:
        """Do nothing."""

    def end(self, at_ns: int | None = None) -> None:
        """Do nothing."""


class NoTracer:
    """A tracer that is off."""

    def start(self, *_name: object, **_options: object) -> Span:
        """Record nothing."""
        return NO_SPAN


NO_SPAN: Span = NoSpan()
NO_TRACER: Tracer = NoTracer()
