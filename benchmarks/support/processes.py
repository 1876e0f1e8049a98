"""A process that a benchmark starts: its output goes to a file, and it does not outlive the benchmark."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rollstream.producer.demo.embedded_redis import die_with_parent

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 400.0


class LoggedProcess:
    """A process in its own session, with the checkout as its folder. Make it on the main thread.

    `dies_by`: the signal that it gets when the benchmark is killed.
    """

    def __init__(
        self, command: Sequence[str], log: Path, env: Mapping[str, str], dies_by: signal.Signals = signal.SIGKILL
    ) -> None:
        self._log = log
        self.started_at = time.monotonic()
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent(dies_by),  # noqa: PLW1509 - one prctl and one getppid, no lock is taken
            )  # fmt: skip

    @property
    def log(self) -> str:
        """The last lines of its log."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-40:])

    def why_it_does_not_serve(self) -> str | None:
        """Why it will not serve: it has ended, or has taken `START_TIMEOUT_S`; None if it may still serve."""
        if self.process.poll() is not None:
            return f"exited with {self.process.returncode}:\n{self.log}"
        if time.monotonic() - self.started_at > START_TIMEOUT_S:
            return f"does not serve after {START_TIMEOUT_S:g} s:\n{self.log}"
        return None

    def end(self) -> None:
        """End it with SIGTERM if it is alive; all its children are gone after this."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.terminate()
            self.process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
