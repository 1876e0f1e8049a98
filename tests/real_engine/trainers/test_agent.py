"""`make agent` on real workers, one of which is killed: the whole of it, as a user runs it."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.support.worker_process import ROOT

pytestmark = pytest.mark.vllm


@pytest.mark.large
@pytest.mark.timeout(900)
def test_ten_turns_survive_a_killed_worker_and_are_learnt_from() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.agent"], cwd=ROOT, capture_output=True, text=True, timeout=880, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "one worker was killed by SIGKILL" in done.stderr
    assert "4 conversations of 10 to 10 turns" in done.stdout
    assert "each trajectory is what the agent was given, token for token" in done.stdout
    (difference,) = re.findall(r"differ by at most (\S+) nats", done.stdout)
    (gained,) = re.findall(r"gained log-prob (\S+)", done.stdout)
    assert float(difference) <= 1e-4
    assert float(gained) > 0
