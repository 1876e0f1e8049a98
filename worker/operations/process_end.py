"""Run a worker's event loop, and end the process after it, even while a thread waits for a disk that hangs."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvloop

_READERS = "reader"
_LAST_S = 2.0
"""Seconds that threads get to end; a thread that waits for a hung disk never ends."""


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
