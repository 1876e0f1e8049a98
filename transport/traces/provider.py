"""OpenTelemetry's SDK as the standard variables say, with logs that are rare and hold no secret."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import (
    SERVICE_INSTANCE_ID,
    SERVICE_NAME,
    SERVICE_VERSION,
    OTELResourceDetector,
    Resource,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter

from rollstream.schemas.errors import cut
from rollstream.schemas.printable import printable, without_credentials
from rollstream.version import __version__

from .otel import OtelTracer
from .spans import Tracer
from .wanted import CONSOLE, GRPC, HTTP, TracesRefusedError, wanted_protocol

QUIET_S = 60.0
"""Seconds between two lines about spans that cannot be sent."""
_EXPORTERS = {
    HTTP: "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    GRPC: "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
}
_LOGGER = "opentelemetry"
_BROKEN = (ValueError, TypeError, LookupError, OSError)
"""What the SDK raises for variables and files that it cannot use."""


class Provider:
    """A provider of spans that sends them from a thread of its own. It is not OpenTelemetry's global one unless
    `share` is called, so that vLLM's spans in the same process stay vLLM's.
    """

    def __init__(
        self,
        *,
        exporters: tuple[str, ...],
        environment: Mapping[str, str],
        service: str,
        instance: str | None,
        tell: Callable[[str], object],
    ) -> None:
        """Raises `ImportError` where a package is missing, `TracesRefusedError` for variables that cannot be used."""
        _quieten(tell)
        try:
            # Its own end at exit would wait for half a minute where the collector does not answer.
            self._provider = TracerProvider(resource=_resource(service, instance), shutdown_on_exit=False)
            for name in exporters:
                self._provider.add_span_processor(BatchSpanProcessor(_exporter(name, environment)))
        except _BROKEN as error:
            problem = without_credentials(printable(str(error) or type(error).__name__))
            raise TracesRefusedError(f"OpenTelemetry refuses an OTEL_ variable: {cut(problem)}") from None
        self.tracer: Tracer = OtelTracer(self._provider)

    def share(self) -> None:
        """Make it the global provider of this process, unless there is one."""
        trace.set_tracer_provider(self._provider)

    def shutdown(self) -> None:
        """Send what is left. May block for long."""
        self._provider.shutdown()


def _exporter(name: str, environment: Mapping[str, str]) -> SpanExporter:
    if name == CONSOLE:
        return ConsoleSpanExporter(out=sys.stderr)  # stdout is for results
    exporter: Any = import_module(_EXPORTERS[wanted_protocol(environment)]).OTLPSpanExporter()
    found: SpanExporter = exporter
    return found


def _resource(service: str, instance: str | None) -> Resource:
    """What the variables say of this program, and our names for what they leave open."""
    ours = {SERVICE_NAME: service, SERVICE_INSTANCE_ID: instance, SERVICE_VERSION: __version__}
    said = OTELResourceDetector().detect().attributes
    return Resource.create({**{name: value for name, value in ours.items() if value is not None}, **said})


class _Seldom(logging.Handler):
    """Gives warnings of OpenTelemetry to `tell`: the first, and then one in `QUIET_S` seconds."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell
        self._next = 0.0
        self._left_out = 0

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`; it calls this under its lock, from any thread."""
        now = time.monotonic()
        if now < self._next:
            self._left_out += 1
            return
        more = f" ({self._left_out} more since the last line)" if self._left_out else ""
        self._next, self._left_out = now + QUIET_S, 0
        text = cut(without_credentials(printable(record.getMessage())))
        self._tell(f"OpenTelemetry: {text}{more}; jobs are not delayed, spans may be lost")


def _quieten(tell: Callable[[str], object]) -> None:
    """Without tracebacks: they are long, and repeat the text."""
    logger = logging.getLogger(_LOGGER)
    logger.handlers[:] = [_Seldom(tell)]
    logger.propagate = False
