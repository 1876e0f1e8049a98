"""A command on a terminal of its own, as a person sees it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from types import TracebackType
from typing import Any, Self

from tests.support.worker_process import ROOT, wait_for

HOME, LEFT = b"\x1b[H", b"\x1b[?1049l"
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """`rollstream` with `args`, drawn on `width` times `height` places. Ends with the `with` block."""

    def __init__(self, redis_url: str, policy: str, *args: str, width: int = 80, height: int = 30) -> None:
        self._master, self._slave = pty.openpty()
        self.resize(width, height)
        self.before: Any = termios.tcgetattr(self._slave)
        self.written = b""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rollstream", *args],
            cwd=ROOT,
            env={"PATH": "", "TERM": "xterm", "ROLLSTREAM_REDIS": redis_url, "ROLLSTREAM_POLICY": policy},
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._slave)
        self._reader.join(10)
        os.close(self._master)

    def _read(self) -> None:
        while True:
            try:
                self.written += os.read(self._master, 65_536)
            except OSError:  # nobody holds the other end any more
                return

    def resize(self, width: int, height: int) -> None:
        """Give the terminal another size; a command that runs is told of it."""
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def picture(self) -> list[str]:
        """The lines of the last picture, without colours."""
        last = self.written.rpartition(HOME)[2].decode(errors="replace")
        return [line.rstrip() for line in _ESCAPES.sub("", last).replace("\r", "").split("\n")]

    def wait_for(self, told: str, timeout_s: float = 30) -> None:
        wait_for(lambda: told in "\n".join(self.picture()), timeout_s, lambda: f"no {told!r} in {self.picture()}")

    def ends(self, timeout_s: float = 30) -> int:
        """The exit code, once the terminal is as it was."""
        code = self.process.wait(timeout_s)
        assert termios.tcgetattr(self._slave) == self.before
        wait_for(lambda: LEFT in self.written, 10, lambda: "the picture was not taken away")
        return code
