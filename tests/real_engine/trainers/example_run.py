"""Runs an example as its reader does, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

from tests.support.worker_process import ROOT

LIMIT_S = 360


def printed(module: str, *flags: str) -> str:
    """What `python -m module` prints once it has ended with exit code 0."""
    ended = subprocess.run(
        [sys.executable, "-m", module, *flags], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
