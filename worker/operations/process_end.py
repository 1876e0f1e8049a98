"""How this process ends when it is told to: before it serves, as process 1 of a container, with a disk that stalls."""

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
"""What threads get to end in; one that waits for a stalled disk never does."""

_before_end: list[Callable[[], None]] = []


def end_on_signals() -> None:
    """SIGTERM and SIGINT end the process at once, until somebody handles them better: nothing is held yet.

    Without a handler the kernel drops them for process 1 of a container. Python runs this one between two steps of its
    own, also while vLLM loads.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)


def before_end(last: Callable[[], None]) -> None:
    """Call `last` before the process ends by `end_on_signals`; it must not take long."""
    _before_end.append(last)


def end_by(number: int) -> None:
    """As if killed by this signal. Does not return."""
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
    os._exit(128 + number)  # process 1: the kernel has dropped it


def _end(number: int, _frame: FrameType | None) -> None:
    for last in _before_end:
        last()
    for child in multiprocessing.active_children():  # an engine that loads does not know yet to end with us
        child.kill()
    end_by(number)


def run(serve: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """The exit code of `serve()`, on an event loop of its own. A thread that still reads does not keep the process."""
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
    """Whether threads are left, which Python would wait for, and no signal ends."""
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
