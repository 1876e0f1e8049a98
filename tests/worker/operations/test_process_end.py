"""A process ends when it is told to: before it serves, and while a thread waits for a disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.worker_process import ROOT, WorkerProcess, wait_for

NOBODY = "redis://127.0.0.1:1/0"
"""A worker waits for its Redis as it waits for its model: it does not serve yet."""
PATHS = {**os.environ, "PYTHONPATH": str(ROOT)}
STALLED = """
import asyncio, os, sys
from rollstream.worker.operations import process_end

async def serve():
    asyncio.get_running_loop().run_in_executor(None, os.read, os.pipe()[0], 1)
    await asyncio.sleep(0.1)
    if sys.argv[1] == "fails":
        raise ValueError("of its own")
    return 7

sys.exit(process_end.run(serve))
"""

HOLDS_MUCH = """
import atexit, sys, types
from rollstream.worker import __main__ as entry, command

class Held:
    def __del__(self):
        print("freed", flush=True)

held = Held()
command.main = lambda: atexit.register(print, "told") and 7
if sys.argv[1] == "vllm":
    sys.modules["vllm"] = types.ModuleType("vllm")
sys.exit(entry.main())
"""

LOADING = """
import multiprocessing, time
from rollstream.worker.operations import early_end

if __name__ == "__main__":
    early_end.end_on_signals()
    child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    child.start()
    print(child.pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_that_does_not_serve_yet_ends_at_once(policy: str, number: signal.Signals) -> None:
    worker = WorkerProcess(NOBODY, policy, "--engine", "stub")
    try:
        wait_for(lambda: "trying again" in worker.log, 30, lambda: worker.log)
        worker.process.send_signal(number)

        assert worker.process.wait(10) == -number
        assert "Traceback" not in worker.log
    finally:
        worker.end()


@pytest.mark.parametrize(("how", "code"), [("ends", 7), ("fails", 1)])
def test_a_thread_that_waits_for_a_disk_does_not_keep_the_process(how: str, code: int) -> None:
    began = time.monotonic()

    done = subprocess.run(
        [sys.executable, "-c", STALLED, how], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == code
    assert "is a disk stalled?" in done.stderr
    assert ("of its own" in done.stderr) == (how == "fails")
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(("loaded", "said"), [("vllm", ["told"]), ("nothing", ["told", "freed"])])
def test_a_worker_that_loaded_vllm_ends_without_freeing_what_it_holds(loaded: str, said: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOLDS_MUCH, loaded], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    assert (done.returncode, done.stdout.split()) == (7, said)


def test_what_was_started_meanwhile_ends_with_the_process(tmp_path: Path) -> None:
    script = tmp_path / "loading.py"
    script.write_text(LOADING)
    outer = subprocess.Popen([sys.executable, script], cwd=ROOT, env=PATHS, stdout=subprocess.PIPE, text=True)
    try:
        assert outer.stdout is not None
        child = int(outer.stdout.readline())
        outer.terminate()

        assert outer.wait(10) == -signal.SIGTERM
        wait_for(lambda: not Path(f"/proc/{child}").exists() or "Z" in state_of(child), 30, lambda: str(child))
    finally:
        outer.kill()
        outer.wait()


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"
