"""`examples/first_rollout.py` runs as docs/first-rollout.md says, with a tiny model in the place of a download."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.support.worker_process import ROOT

pytestmark = [pytest.mark.vllm, pytest.mark.large, pytest.mark.timeout(240)]


def test_the_second_batch_is_sampled_with_the_weights_that_the_first_one_taught() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "examples.first_rollout"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert re.findall(r"^version (\[[0-9, ]+\]) ", ended.stdout, re.MULTILINE) == ["[0]"] * 3 + ["[1]"] * 3
