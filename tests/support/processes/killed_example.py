"""`examples/grpo_async.py` that is killed before a line: `python -m tests.support.processes.killed_example [PART OF THE
LINE] -- FLAGS`. It is killed the second time that it comes there, or the first if the line is in no loop.
"""

from __future__ import annotations

import linecache
import os
import signal
import sys
from types import FrameType
from typing import Any

from examples import grpo_async

ONCE = ("save_cursor",)
"""Lines that a trainer comes to once."""


class Killer:
    def __init__(self, part: str) -> None:
        self._part = part
        self._left = 1 if any(word in part for word in ONCE) else 2

    def __call__(self, frame: FrameType, _event: str, _argument: object) -> Any:
        return self._line if frame.f_code.co_filename == grpo_async.__file__ else None

    def _line(self, frame: FrameType, event: str, _argument: object) -> Any:
        if event == "line" and self._part in linecache.getline(frame.f_code.co_filename, frame.f_lineno):
            self._left -= 1
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)
        return self._line


if __name__ == "__main__":
    cut = sys.argv.index("--")
    parts, sys.argv = sys.argv[1:cut], ["grpo_async", *sys.argv[cut + 1 :]]
    if parts:
        sys.settrace(Killer(parts[0]))
    grpo_async.main()
