"""A plugin of pytest that writes how each test ended as soon as it has: a file that a killed run leaves whole too.

`pytest -p tests.vllm_versions.recording --record FILE`
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

STARTED, PASSED, FAILED, SKIPPED = "started", "passed", "failed", "skipped"
MAX_WHY = 300


class Recording:
    """Appends one line of JSON for each thing that happens to a test."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._write(name="", outcome="collected", why=str(len(session.items)))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._write(name=nodeid, outcome=STARTED, why="")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._write(name=report.nodeid, outcome=FAILED, why=f"{report.when}: {_crash(report)}")
        elif report.skipped:
            self._write(name=report.nodeid, outcome=SKIPPED, why=_reason(report))
        elif report.when == "call":
            self._write(name=report.nodeid, outcome=PASSED, why="")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._write(name=report.nodeid, outcome=FAILED, why=f"collection: {_last_line(str(report.longrepr))}")

    def _write(self, *, name: str, outcome: str, why: str) -> None:
        with self._file.open("a") as file:
            file.write(json.dumps({"name": name, "outcome": outcome, "why": why[:MAX_WHY]}) + "\n")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--record", type=Path, help="append how each test ended to this file, as lines of JSON")


def pytest_configure(config: pytest.Config) -> None:
    file = config.getoption("--record")
    if file is not None and not hasattr(config, "workerinput"):  # pytest-xdist's processes report to their parent
        config.pluginmanager.register(Recording(file), "rollstream-recording")


def _crash(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    return _last_line(str(report.longrepr)) if crash is None else " ".join(crash.message.split())


def _reason(report: pytest.TestReport) -> str:
    place = report.longrepr
    return str(place[2]).removeprefix("Skipped: ") if isinstance(place, tuple) else _last_line(str(place))


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")
