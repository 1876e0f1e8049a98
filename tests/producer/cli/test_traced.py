"""The command line sets its spans up itself, from the standard variables, and sends them before it ends."""

from __future__ import annotations

from tests.support.command_line import ROWS, Command
from tests.support.watching.otlp_sink import Sink
from tests.support.worker_process import WorkerProcess


def test_a_submit_that_waits_sends_its_spans_as_one_trace(
    redis_url: str, policy: str, stub_worker: WorkerProcess
) -> None:
    command = Command(redis_url, policy)
    with Sink() as sink:
        command.env |= sink.env | {"OTEL_BSP_SCHEDULE_DELAY": "3600000"}
        process = command.start("submit", "-", "--max-new-tokens", "2", "--wait", "--out", "-")
        out, told = process.communicate(ROWS, timeout=60)

    assert process.returncode == 0, told
    assert len(out.splitlines()) == 3
    assert "OpenTelemetry" not in told
    submit, read = sink.spans
    assert (submit.name, submit.parent, submit.resource["service.name"]) == ("submit", "", "rollstream")
    assert (read.name, read.parent, read.trace) == ("read", submit.span, submit.trace)
