"""A library's tracer: that of the program which uses it, if it has OpenTelemetry. Nothing is set up here."""

from __future__ import annotations

import sys

from .spans import NO_TRACER, Tracer

_API = "opentelemetry.trace"


def tracer() -> Tracer:
    """The tracer of the program's own provider. It records nothing where the program has not imported OpenTelemetry,
    or has no provider. Asked for at each call: a provider may be set up late.
    """
    api = sys.modules.get(_API)
    if api is None:
        return NO_TRACER
    from .otel import OtelTracer  # noqa: PLC0415 - only a program that has OpenTelemetry has it

    return OtelTracer(api.get_tracer_provider())
