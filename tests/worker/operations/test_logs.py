"""What libraries log is a line of the worker's own log: JSON where that is JSON, and without secrets."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.worker_process import ROOT

LIBRARIES = """
import logging, sys, threading, warnings
from rollstream.worker.operations import logs
from rollstream.worker.config import WorkerSettings

settings = WorkerSettings(
    policy="p", consumer="me", engine="stub", redis="redis://u:pass-word@h", engine_args={"hf_token": "hf_SECRET"},
    log_format=sys.argv[1], log_level=sys.argv[2],
)
logs.configure(settings)
logs.configure(settings)
noisy = logging.getLogger("noisy")
noisy.addHandler(logging.StreamHandler(sys.stderr))
noisy.propagate = False
logs.take_over()
logging.getLogger("rollstream").warning("redis at %s: is pass-word", "redis://u:pass-word@h")
logging.getLogger("some.library").info("is no warning")
noisy.warning("with \\x1b[31m hf_SECRET")
warnings.warn("old: hf_SECRET")
logging.getLogger("clumsy").warning("%d", "pass-word")
try:
    raise ValueError("pass-word")
except ValueError:
    failed = sys.exc_info()
thread = threading.Thread(target=lambda: logging.getLogger("asyncio").error("task failed", exc_info=failed))
thread.start()
thread.join()
"""


def libraries(form: str, level: str) -> str:
    """What a process with the worker's log writes to stderr."""
    done = subprocess.run(
        [sys.executable, "-c", LIBRARIES, form, level], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stderr


def test_what_libraries_log_is_json_with_the_workers_names_and_no_secret() -> None:
    lines = [json.loads(line) for line in libraries("json", "info").splitlines()]

    said = [(line["logger"], line["level"], line["event"]) for line in lines]
    assert said[0] == ("rollstream", "warning", "redis at redis://***@h: is ***")
    assert said[1] == ("noisy", "warning", "with \\x1b[31m ***")
    assert said[2][:2] == ("py.warnings", "warning")
    assert "UserWarning: old: ***" in said[2][2]
    assert said[3] == ("clumsy", "error", "a log line of a library cannot be written")
    assert said[4] == ("asyncio", "error", "task failed")
    assert [one["exc_value"] for one in lines[4]["exception"]] == ["***"]
    assert [(line["policy"], line["consumer"]) for line in lines] == [("p", "me")] * 5
    assert all(line["timestamp"] for line in lines)


def test_on_a_terminal_they_are_readable_lines_without_secrets() -> None:
    said = libraries("console", "info")

    assert "[warning  ] redis at redis://***@h: is *** [rollstream]" in said
    assert said.count("ValueError: ***") == 1
    assert "pass-word" not in said
    assert "SECRET" not in said


def test_the_level_of_the_log_counts_for_libraries_too() -> None:
    lines = [json.loads(line) for line in libraries("json", "error").splitlines()]

    assert [line["logger"] for line in lines] == ["asyncio"]


def test_a_workers_warning_of_an_open_password_file_is_a_line_of_its_log(
    tmp_path: Path, redis_url: str, policy: str
) -> None:
    file = tmp_path / "password"
    file.write_text("pass-word")
    file.chmod(0o666)

    done = subprocess.run(
        [sys.executable, "-m", "rollstream.worker", "--engine", "stub", "--redis", redis_url, "--policy", policy,
         "--redis-password-file", str(file), "--log-format", "json"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    first, *others = done.stderr.splitlines()
    line = json.loads(first)
    assert (line["level"], line["logger"], line["policy"]) == ("warning", "rollstream", policy)
    assert "other users may read or change it (mode 666)" in line["event"]
    assert all(one.startswith(("{", "rollstream-worker: ")) for one in others)
