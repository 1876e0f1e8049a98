"""Stub workers forked from one process that has imported the worker: a start's second of CPU is paid once (Linux).

Each is a child of the test process all the same, in a session of its own, and ends with it. `python -m
rollstream.worker` itself is what workers on the real engine and those of other flags are started with.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

from rollstream.producer.demo.embedded_redis import PR_SET_PDEATHSIG, die_with_parent

ROOT = Path(__file__).parents[3]
PR_SET_CHILD_SUBREAPER = 36


class Forked:
    """As much of `subprocess.Popen` as tests use, for a child that another process forked."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: Any = None  # None or an int, as Popen has it

    def poll(self) -> Any:
        if self.returncode is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found == self.pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises `subprocess.TimeoutExpired`."""
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"worker {self.pid}", timeout or 0)
            time.sleep(0.005)
        return int(self.returncode)

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Nursery:
    """Started from the main thread; it ends with that thread's process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.processes.stub_nursery"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )
        atexit.register(self._close)

    def start(self, flags: list[str], log: str, env: Mapping[str, str]) -> Forked:
        """`rollstream-worker FLAGS` with `env` alone, which writes to the file `log`."""
        order = {"flags": flags, "log": log, "env": dict(env), "parent": os.getpid()}
        to, back = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)
        adopt_orphans(True)
        try:
            to.write(json.dumps(order).encode() + b"\n")
            to.flush()
            return Forked(int(back.readline()))
        finally:
            adopt_orphans(False)

    def _close(self) -> None:
        cast("IO[bytes]", self._process.stdin).close()
        self._process.wait(10)


def adopt_orphans(yes: bool) -> None:
    """Whether this process becomes the parent of its descendants whose own parent ends."""
    assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0) == 0


_nursery: list[Nursery] = []


def nursery() -> Nursery:
    """That of this process."""
    if not _nursery:
        _nursery.append(Nursery())
    return _nursery[0]


def serve() -> int:
    """Fork a worker for each line; the exit code, which is that of a worker in the worker's process."""
    import rollstream.worker.app
    import rollstream.worker.command
    import rollstream.worker.engines.stub  # noqa: F401 - what the workers have of all of them

    gc.freeze()  # else a worker that ends copies all that was imported, only to look through it: 0.3 s each
    for line in sys.stdin:
        order = json.loads(line)
        if "--weight-transfer" in order["flags"]:
            import torch.distributed  # noqa: F401 - seconds of CPU, which each of them would need in its first round
        if (code := _fork(order)) is not None:
            return code
    return 0


def _fork(order: dict[str, object]) -> int | None:
    """None in this process; a worker's exit code in its own.

    The worker is the child of a child that ends at once, so the process above us that adopts orphans adopts it. It
    waits for that to have happened: it binds its life to its parent's.
    """
    adopted, told = os.pipe()
    pids, pid_in = os.pipe()
    if (child := os.fork()) == 0:
        if (pid := os.fork()) != 0:
            os.write(pid_in, str(pid).encode())
            os._exit(0)
        for end in (told, pids, pid_in):
            os.close(end)
        os.read(adopted, 1)
        os.close(adopted)
        return _work(order)
    os.waitpid(child, 0)
    sys.stdout.write(os.read(pids, 20).decode() + "\n")
    sys.stdout.flush()
    for end in (adopted, told, pids, pid_in):
        os.close(end)
    return None


def _work(order: dict[str, object]) -> int:
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != order["parent"]:  # it has ended: nobody is left to be told
        os._exit(1)
    null = os.open(os.devnull, os.O_RDONLY)
    log = os.open(cast("str", order["log"]), os.O_WRONLY | os.O_APPEND)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(log)
    os.environ.clear()
    os.environ.update(cast("dict[str, str]", order["env"]))
    sys.argv = ["rollstream-worker", *cast("list[str]", order["flags"])]
    from rollstream.worker.__main__ import main
    from tests.support import pace
    from tests.support.processes import halts

    halts.install()
    pace.install()
    return main()


if __name__ == "__main__":
    sys.exit(serve())
