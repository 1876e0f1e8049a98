"""A program sets its spans up from the standard variables; what cannot work is one line, and the program goes on."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Iterator

import pytest

from rollstream.transport.traces import application, library
from rollstream.transport.traces.application import Traces, traces_of
from rollstream.transport.traces.spans import NO_TRACER
from tests.support.watching.memory_traces import traced
from tests.support.watching.otlp_sink import Sink


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as sink:
        yield sink


def made(monkeypatch: pytest.MonkeyPatch, env: dict[str, str]) -> tuple[Traces, list[str]]:
    """The SDK reads the process's environment, so that is where the variables must be."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    told: list[str] = []
    return traces_of(env, service="rollstream-worker", instance="w1", tell=told.append), told


def test_without_variables_nothing_is_recorded_and_nobody_is_told() -> None:
    told: list[str] = []
    traces = traces_of({}, service="rollstream", tell=told.append)

    traces.close()
    assert traces.tracer is NO_TRACER
    assert told == []


def test_what_a_program_is_called_comes_from_the_variables_first(monkeypatch: pytest.MonkeyPatch, sink: Sink) -> None:
    env = {**sink.env, "OTEL_SERVICE_NAME": "math-workers", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=lab"}
    traces, _ = made(monkeypatch, env)

    traces.tracer.start("submit").end()
    traces.close()

    (span,) = sink.spans
    wanted = {"service.name": "math-workers", "service.instance.id": "w1", "deployment.environment": "lab"}
    assert span.resource.items() >= wanted.items()


def test_a_program_has_a_name_of_its_own_without_them(monkeypatch: pytest.MonkeyPatch, sink: Sink) -> None:
    traces, _ = made(monkeypatch, sink.env)

    traces.tracer.start("submit").end()
    traces.close()

    assert sink.spans[0].resource["service.name"] == "rollstream-worker"


def test_the_sampler_of_the_variables_decides(monkeypatch: pytest.MonkeyPatch, sink: Sink) -> None:
    env = {**sink.env, "OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}
    traces, _ = made(monkeypatch, env)

    span = traces.tracer.start("submit")
    traces.tracer.start("job", parent=f"00-{'4b' * 16}-{'0a' * 8}-01").end()
    span.end()
    traces.close()

    assert [span.name for span in sink.spans] == ["job"], "only what another process has chosen"
    assert span.traceparent is not None
    assert int(span.traceparent[-2:], 16) & 1 == 0, "and others are told that this one was not"


@pytest.mark.parametrize(
    ("env", "told"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER: 'zipkin' is no exporter"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "write http/protobuf or grpc"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_BSP_MAX_QUEUE_SIZE": "-1"}, "OpenTelemetry refuses an OTEL_ variable"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_variables_that_cannot_work_are_one_line(
    monkeypatch: pytest.MonkeyPatch, env: dict[str, str], told: str
) -> None:
    traces, lines = made(monkeypatch, env)

    assert traces.tracer is NO_TRACER
    assert len(lines) == 1
    assert told in lines[0]


def test_a_program_that_has_a_provider_keeps_it(monkeypatch: pytest.MonkeyPatch, sink: Sink) -> None:
    told: list[str] = []
    with traced(monkeypatch) as memory:
        traces = traces_of(sink.env, service="rollstream", tell=told.append, shared=True)
        library.tracer().start("submit").end()
        traces.close()

    assert [span.name for span in memory.spans] == ["submit"]
    assert (sink.spans, told) == ([], [])


async def test_a_collector_that_is_silent_holds_up_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "END_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the connection and never answers
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        traces, _ = made(monkeypatch, env)
        traces.tracer.start("submit").end()
        ending = asyncio.create_task(traces.aclose())
        turns = 0
        while not ending.done():  # the loop goes on meanwhile
            await asyncio.sleep(0)
            turns += 1

    assert turns > 10
    assert ending.exception() is None


def test_a_collector_that_is_away_is_told_now_and_then_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(application, "END_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://user:hunter2@127.0.0.1:{port}",
        "OTEL_EXPORTER_OTLP_HEADERS": "api-key=s3cret",
        "OTEL_BSP_SCHEDULE_DELAY": "10",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
    }
    traces, told = made(monkeypatch, env)
    deadline = time.monotonic() + 20
    while not told and time.monotonic() < deadline:
        traces.tracer.start("submit").end()
        time.sleep(0.02)
    for _ in range(20):
        logging.getLogger("opentelemetry.sdk").warning("failed again: %s", env["OTEL_EXPORTER_OTLP_ENDPOINT"])
    traces.close()

    assert len(told) == 1
    assert "spans may be lost" in told[0]
    assert "hunter2" not in told[0]
    assert "s3cret" not in told[0]
