"""Whether the standard variables of OpenTelemetry ask for spans, and which exporters they name. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from rollstream.schemas.errors import SchemaError, shown

OTLP, CONSOLE = "otlp", "console"
HTTP, GRPC = "http/protobuf", "grpc"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


class TracesRefusedError(SchemaError):
    """Raised when spans are asked for in a way that cannot work; the program goes on without them."""


def wanted_exporters(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Names of the exporters, of `otlp` and `console`; none: no spans. Raises `TracesRefusedError` for another name.

    Unlike the standard's, our default is none: spans are sent where an exporter or an endpoint is named.
    """
    if _value(environment, "OTEL_SDK_DISABLED").lower() == "true":
        return ()
    chosen = _value(environment, "OTEL_TRACES_EXPORTER")
    if not chosen:
        return (OTLP,) if any(_value(environment, name) for name in _ENDPOINTS) else ()
    names = tuple(dict.fromkeys(name.strip() for name in chosen.split(",")))
    if names == ("none",):
        return ()
    for name in names:
        if name not in (OTLP, CONSOLE):
            problem = f"OTEL_TRACES_EXPORTER: {shown(name)} is no exporter known here: write otlp, console or none"
            raise TracesRefusedError(problem)
    return names


def wanted_protocol(environment: Mapping[str, str]) -> str:
    """What the exporter `otlp` speaks: `http/protobuf`, the default, or `grpc`. Raises `TracesRefusedError`."""
    protocol = next((found for name in _PROTOCOLS if (found := _value(environment, name))), HTTP)
    if protocol not in (HTTP, GRPC):
        raise TracesRefusedError(f"OTEL_EXPORTER_OTLP_PROTOCOL: {shown(protocol)}: write {HTTP} or {GRPC}")
    return protocol


def _value(environment: Mapping[str, str], name: str) -> str:
    """The standard takes an empty variable for one that is not set."""
    return environment.get(name, "").strip()
