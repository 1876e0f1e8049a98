"""End this process when asked to: before it serves, as process 1 of a container, and while a disk hangs."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import uvloop

_READERS = "reader"
_LAST_S = 2.0
"""Seconds that threads get to end; a thread that waits for a hung disk never ends."""

_before_end: list[Callable[[], None]] = []


def end_on_signals() -> None:
    """Let SIGTERM and SIGINT end the process at once, until the worker handles them: it holds no job yet.

    For process 1 of a container the kernel drops signals without a handler. Python runs this handler between two of its
    own steps, even while vLLM loads.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
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
    for child in multiprocessing.active_children():  # an engine that still loads does not end with its worker yet
        child.kill()
    end_by(number)


def run(serve: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run `serve()` on an event loop; returns its exit code. A thread that still reads does not keep the process."""
    readers = ThreadPoolExecutor(thread_name_prefix=_READERS)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.get_loop().set_default_executor(readers)
        try:
            code = runner.run(serve())
        except BaseException:
            if _hang(readers):
                traceback.print_exc()
                _leave(1)
            raise
        if _hang(readers):
            _leave(code)
    return code


def _hang(readers: ThreadPoolExecutor) -> bool:
    """Whether threads are left, for which Python would wait and which no signal ends."""
    readers.shutdown(wait=False, cancel_futures=True)
    until = time.monotonic() + _LAST_S
    left = [thread for thread in threading.enumerate() if thread.name.startswith(_READERS)]
    for thread in left:
        thread.join(max(0.0, until - time.monotonic()))
    return any(thread.is_alive() for thread in left)


def _leave(code: int) -> None:
    sys.stderr.write("rollstream-worker: ends while a thread still waits for a file: is a disk stalled?\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
