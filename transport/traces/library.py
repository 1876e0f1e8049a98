"""A library's tracer: that of the program which uses it, if it has a provider. Nothing is set up here."""

from __future__ import annotations

import sys

from .spans import NO_TRACER, Tracer

_API = "opentelemetry.trace"


def tracer() -> Tracer:
    """The tracer of the program's own provider. It records nothing where the program has not imported OpenTelemetry
    (redis-py imports it where it is installed), or has no provider. Asked for at each call, because a provider may be
    set up late.
    """
    api = sys.modules.get(_API)
    if api is None or isinstance(provider := api.get_tracer_provider(), api.ProxyTracerProvider):
        return NO_TRACER
    from .otel import OtelTracer  # noqa: PLC0415 - only a program that has a provider needs it

    return OtelTracer(provider)
