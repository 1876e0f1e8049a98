"""A command as process 1 of a namespace, as in a container: no signal has a default action."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.support.worker_process import ROOT, wait_for

_UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


class ProcessOne:
    """Started by `with`; at its end nothing of the namespace is left, whatever state it is in."""

    def __init__(self, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self._command = [*_UNSHARE, *command]
        self._log = log
        self._env = {**os.environ, **(env or {})}

    def __enter__(self) -> Self:
        skip_where_forbidden()
        with self._log.open("wb") as out:
            self.outer = subprocess.Popen(
                self._command, cwd=ROOT, env=self._env, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
            )
        wait_for(lambda: _children_of(self.outer.pid) != "" or self.outer.poll() is not None, 30, lambda: self.log)
        self.pid = int(_children_of(self.outer.pid))
        self._namespace = _namespace_of(self.pid)
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.outer.kill()
        self.outer.wait()

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_until_it_says(self, text: str, timeout_s: float = 60) -> None:
        wait_for(lambda: text in self.log or self.outer.poll() is not None, timeout_s, lambda: self.log)
        assert text in self.log, self.log

    def wait_until_it_has_a_child(self, name: str) -> None:
        """Return once process 1 is the program `name`, after those that prepared its place, and has started another."""
        wait_for(lambda: _name_of(self.pid) == name and _children_of(self.pid) != "", 30, lambda: self.log)

    def wait_until_one_is_named(self, part: str, timeout_s: float) -> None:
        """Return once a process of the namespace has `part` in its name; fail at once if process 1 has ended."""
        wait_for(lambda: bool(self.named(part)) or self.outer.poll() is not None, timeout_s, lambda: self.log)
        assert self.outer.poll() is None, self.log

    def named(self, part: str) -> list[int]:
        """The processes with `part` in their name."""
        return [pid for pid in self.members() if part in _name_of(pid)]

    def wait_until_it_catches(self, number: signal.Signals) -> None:
        """Return once process 1 has a handler for this signal."""
        wait_for(lambda: self._mask("SigCgt") >> (number - 1) & 1 == 1, 30, lambda: self.log)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout_s: float = 30) -> int:
        """Return its exit code."""
        return self.outer.wait(timeout_s)

    def members(self) -> dict[int, str]:
        """All processes of the namespace, by their number outside, and their state as /proc has it: Z for zombies."""
        found = {}
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                if _namespace_of(status.parent.name) == self._namespace:
                    found[int(status.parent.name)] = status.read_text().rpartition(")")[2].split()[0]
            except OSError:  # it ended meanwhile
                continue
        return found

    def _mask(self, name: str) -> int:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")), 16)


def _children_of(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text()


def _name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:  # it ended meanwhile
        return ""


def _namespace_of(pid: int | str) -> Path:
    return Path(f"/proc/{pid}/ns/pid").readlink()


def skip_where_forbidden() -> None:
    """Skip the test where no process may become process 1."""
    try:
        subprocess.run([*_UNSHARE, "true"], check=True, capture_output=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("no process may become process 1 here")
