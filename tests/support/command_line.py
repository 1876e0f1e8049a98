"""`rollstream` as an operator and a script call it, in the test's process or in its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from typer.testing import CliRunner, Result

from rollstream.producer.cli.app import app
from tests.support.worker_process import ROOT

ROWS = '{"prompt_token_ids": [1, 2]}\n\n{"prompt_token_ids": [3]}\n'


class Command:
    """The command line in this process, with one policy."""

    def __init__(self, redis_url: str, policy: str) -> None:
        self.redis_url = redis_url
        self.env = {"ROLLSTREAM_REDIS": redis_url, "ROLLSTREAM_POLICY": policy}

    def __call__(self, *args: str, stdin: str | bytes = "") -> Result:
        return CliRunner(env=self.env).invoke(app, list(args), input=stdin)

    def start(self, *args: str) -> subprocess.Popen[str]:
        """The same in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "rollstream", *args],
            cwd=ROOT,
            env={"PATH": "", **self.env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
