"""End this process by a signal before it serves, as process 1 of a container too.

It imports next to nothing: for process 1 the kernel drops a signal that comes before `end_on_signals`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

_before_end: list[Callable[[], None]] = []


def end_on_signals() -> None:
    """Let SIGTERM and SIGINT end the process at once, until the worker handles them: it holds no job yet.

    Python runs this handler between two of its own steps, even while vLLM loads.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)


def before_end(last: Callable[[], None]) -> None:
    """Call `last` before the process ends by `end_on_signals`; it must not take long."""
    _before_end.append(last)


def end_by(number: int) -> None:
    """End as if killed by this signal. Does not return."""
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
    os._exit(128 + number)  # for process 1 the kernel has dropped the signal


def _end(number: int, _frame: FrameType | None) -> None:
    for last in _before_end:
        last()
    if (multiprocessing := sys.modules.get("multiprocessing")) is not None:
        for child in multiprocessing.active_children():  # an engine that still loads does not end with its worker yet
            child.kill()
    end_by(number)
