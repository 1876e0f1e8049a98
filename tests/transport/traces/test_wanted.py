"""The standard variables say whether spans are sent, and how; without them none are."""

from __future__ import annotations

import pytest

from rollstream.transport.traces.wanted import TracesRefusedError, wanted_exporters, wanted_protocol

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


@pytest.mark.parametrize(
    ("environment", "exporters"),
    [
        ({}, ()),
        ({"OTEL_SERVICE_NAME": "x", "OTEL_TRACES_SAMPLER": "always_on"}, ()),
        (ENDPOINT, ("otlp",)),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, ("otlp",)),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, ()),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, ("otlp",)),
        ({"OTEL_TRACES_EXPORTER": "console, otlp,console"}, ("console", "otlp")),
        ({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"}, ()),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "True"}, ()),
        ({**ENDPOINT, "OTEL_SDK_DISABLED": "false"}, ("otlp",)),
    ],
    ids=str,
)
def test_spans_are_sent_where_an_exporter_or_an_endpoint_is_named(
    environment: dict[str, str], exporters: tuple[str, ...]
) -> None:
    assert wanted_exporters(environment) == exporters


def test_an_exporter_that_is_not_known_is_refused_by_name() -> None:
    with pytest.raises(TracesRefusedError, match=r"OTEL_TRACES_EXPORTER: 'zipkin\\x1b' is no exporter .* otlp"):
        wanted_exporters({"OTEL_TRACES_EXPORTER": "otlp,zipkin\x1b"})


@pytest.mark.parametrize(
    ("environment", "protocol"),
    [
        ({}, "http/protobuf"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "grpc"),
        (
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"},
            "http/protobuf",
        ),
    ],
    ids=str,
)
def test_the_protocol_of_traces_goes_before_that_of_everything(environment: dict[str, str], protocol: str) -> None:
    assert wanted_protocol(environment) == protocol


def test_a_protocol_that_is_not_spoken_is_refused_by_name() -> None:
    with pytest.raises(TracesRefusedError, match="'http/json': write http/protobuf or grpc"):
        wanted_protocol({"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"})
