"""`rollstream demo`: the main job from nothing, and nothing left of it, however it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import psutil
import pytest

from tests.support.worker_process import ROOT, wait_for

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400)]

START_S, END_S = 150, 60
"""What a process may take to start and to end on a busy machine; one that was left behind would never end."""


OF_ANOTHER_WORKER = {"ROLLSTREAM_ENGINE": "none such", "rollstream_max_num_seqs": "-1"}


def demo(*flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "rollstream", "demo", *flags],
        cwd=ROOT,
        env=os.environ | OF_ANOTHER_WORKER,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def started(processes: Iterable[psutil.Process], what: str) -> bool:
    """Whether one of `processes` is a `what`, by its name or command line."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if what in f"{process.name()} {' '.join(process.cmdline())}":
                return True
    return False


def test_it_shows_three_batches_and_leaves_nothing_behind(tmp_path: Path) -> None:
    process = demo("--json", "--keep", str(tmp_path))
    seen: set[psutil.Process] = set()

    def engine_started() -> bool:
        seen.update(family(process))
        return started(seen, "EngineCore")

    wait_for(engine_started, START_S, lambda: f"processes seen: {seen}")
    shown, complaints = process.communicate(timeout=START_S)

    batches = json.loads(shown)
    assert process.returncode == 0, complaints
    assert [batch["errors"] for batch in batches] == [0, 0, 0]
    assert [batch["shapes"]["RolloutBatch"]["sequences"][0] for batch in batches] == [16, 16, 8]
    assert all(prompt["ver"] == "v0" for batch in batches for prompt in batch["prompts"])
    assert psutil.wait_procs(seen, timeout=END_S)[1] == []
    log = (tmp_path / "worker.log").read_text()
    assert not any(word in log for word in ("leaked", "unexpectedly", "force killing")), log


@pytest.mark.parametrize("moment", ["-m rollstream.worker", "spawn_main"], ids=["worker starts", "engine starts"])
def test_ctrl_c_leaves_nothing_behind(moment: str) -> None:
    process = demo()
    seen: set[psutil.Process] = set()

    def reached() -> bool:
        seen.update(family(process))
        return started(seen, moment)

    wait_for(reached, START_S, lambda: f"processes seen: {seen}")
    seen.update(family(process))
    process.send_signal(signal.SIGINT)
    _, complaints = process.communicate(timeout=END_S)

    assert process.returncode == 130
    assert "Traceback" not in complaints
    assert psutil.wait_procs(seen, timeout=END_S)[1] == []
