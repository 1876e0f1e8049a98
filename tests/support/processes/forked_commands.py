"""`rollstream` commands forked from one process that has imported them: a start's seconds of CPU are paid once (Linux).

They write nothing to be read. They end with this process, and this one with the test's.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import IO, Self, cast

from rollstream.producer.demo.embedded_redis import PR_SET_PDEATHSIG, die_with_parent

ROOT = Path(__file__).parents[3]


class Commands:
    """Starts them, as `with`, from the main thread."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.processes.forked_commands"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=die_with_parent(),
        )
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def start(self, *arguments: str) -> int:
        """The process id of `rollstream ARGUMENTS`."""
        to, back = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)
        to.write(json.dumps(arguments).encode() + b"\n")
        to.flush()
        return int(back.readline())


def serve() -> None:
    """Fork a command for each line."""
    import rollstream.producer.cli.app
    import rollstream.producer.cli.weights.publish
    import rollstream.producer.client  # noqa: F401 - what the commands have of all of them

    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks for their exit codes
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            _run(json.loads(line))
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


def _run(arguments: list[str]) -> None:
    from rollstream.__main__ import main

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    sys.argv = ["rollstream", *arguments]
    try:
        main()
    finally:
        os._exit(0)


if __name__ == "__main__":
    serve()
