"""Without the standard variables, or without the extra, nothing of OpenTelemetry is loaded, and all else goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.support.command_line import ROWS
from tests.support.faults import Queue
from tests.support.worker_process import ROOT

MODULES = """
import atexit, sys
import redis.asyncio
before = set(sys.modules)
rooms = ("opentelemetry", "rollstream.transport.traces.otel", "rollstream.transport.traces.provider")
atexit.register(lambda: print("loaded", sorted(name for name in set(sys.modules) - before if name.startswith(rooms))))
"""
"""redis-py itself imports OpenTelemetry's metrics where they are installed; what is loaded beyond that is our doing."""
MISSING = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""
MAIN = "sys.argv = {argv!r}\nfrom {package}.__main__ import main\nsys.exit(main())"
ASKED = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


def started(package: str, argv: list[str], before: str, env: dict[str, str]) -> subprocess.Popen[str]:
    code = before + MODULES + MAIN.format(argv=argv, package=package)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT, env={**clean, **env}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("before", "env", "lines"),
    [pytest.param("", {}, 0, id="no variables"), pytest.param(MISSING, ASKED, 1, id="no extra")],
)
def test_worker_and_command_line_go_on_without_opentelemetry(
    redis_url: str, policy: str, queue: Queue, before: str, env: dict[str, str], lines: int
) -> None:
    flags = ["--redis", redis_url, "--policy", policy]
    with started("rollstream.worker", ["rollstream-worker", "--engine", "stub", *flags], before, env) as worker:
        words = ["submit", "-", "--max-new-tokens", "2", "--wait", "--out", "-", *flags]
        with started("rollstream", ["rollstream", *words], before, env) as command:
            out, told = command.communicate(ROWS, timeout=60)
        worker.send_signal(signal.SIGTERM)
        end, log = worker.communicate(timeout=60)

    assert (command.returncode, worker.returncode) == (0, 0), told + log
    assert out.splitlines()[-1] == "loaded []"
    assert end.splitlines()[-1] == "loaded []"
    assert len(results(out)) == 2
    ((_, fields),) = queue.entries()
    assert b"traceparent" not in fields
    assert told.count("pip install 'rollstream[otel]'") == lines
    assert log.count("pip install 'rollstream[otel]'") == lines


def results(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]
