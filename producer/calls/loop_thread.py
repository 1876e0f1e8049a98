"""The event loop of a blocking client, in a thread of its own. Callers wait for the thread, never the reverse."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import suppress
from typing import Any, TypeVar

from ..errors import ClientClosedError, ClientMisusedError, ProducerError
from .home import check_process

T = TypeVar("T")

_END_S = 2.0
"""The longest time, in seconds, that `close` waits for the thread."""


class LoopThread:
    """Runs coroutines for callers in any thread, even in one that runs a loop already, such as a Jupyter cell.

    Ends with `close`, or when nothing refers to it any more, or with the process. `on_close` closes what the coroutines
    use; it must not refer to this object.
    """

    def __init__(self, on_close: Callable[[], Awaitable[None]]) -> None:
        self._inside = _Inside(on_close)
        self._end = weakref.finalize(self, self._inside.end_quietly)

    def run(self, what: str, call: Coroutine[Any, Any, T]) -> T:
        """Wait for `call`; Ctrl-C cancels it. Raises `ClientClosedError`, `ClientMisusedError`."""
        waiting: Future[T] = Future()
        try:
            self._inside.begin(what, call, waiting)
            return waiting.result()
        except CancelledError:
            raise ClientClosedError(f"cannot {what}: the client was closed meanwhile") from None
        except ProducerError:
            call.close()  # the call may not have begun; closing one that has ended does nothing
            raise
        finally:
            if waiting.cancel():  # Ctrl-C
                self._inside.give_up(waiting)

    def close(self) -> None:
        """End the running calls, the loop and the thread. Safe to call twice; does nothing in a forked process."""
        if self._end.detach() is not None and self._inside.is_ours:
            self._inside.end()
        self._inside.join()


class _Inside:
    """The part that the thread refers to. It does not refer to `LoopThread`, so that an unused one can be collected.

    Only the loop's thread changes `_calls`. `_ending` is set under the lock, so that no call begins after the end. The
    lock is reentrant: while a thread has it, a signal handler or the garbage collector may use a client there.
    """

    def __init__(self, on_close: Callable[[], Awaitable[None]]) -> None:
        self._pid = os.getpid()
        self._on_close = on_close
        self._loop = asyncio.new_event_loop()
        self._calls: dict[asyncio.Task[Any], Future[Any]] = {}
        self._lock = threading.RLock()
        self._ending = False
        self._quiet = False
        self._thread = threading.Thread(target=self._serve, name="rollstream-client", daemon=True)
        self._thread.start()

    @property
    def is_ours(self) -> bool:
        """Whether this is the process that started the thread: a forked process does not have it."""
        return os.getpid() == self._pid

    def begin(self, what: str, call: Coroutine[Any, Any, T], waiting: Future[T]) -> None:
        """Run `call` in the loop; its result or error goes to `waiting`.

        Raises `ClientClosedError`, and `ClientMisusedError` in the loop's own thread and in a forked process.
        """
        check_process(what, self._pid)
        if threading.current_thread() is self._thread:
            problem = "this is the client's own background thread, which would wait for itself"
            raise ClientMisusedError(what, problem, "call it from a thread of yours")
        with self._lock:
            if self._ending:
                raise ClientClosedError(f"cannot {what}: the client is closed")
            self._loop.call_soon_threadsafe(self._start, call, waiting)

    def give_up(self, waiting: Future[Any]) -> None:
        """Cancel a call whose caller was interrupted."""
        with self._lock:
            if self.is_ours and not self._ending:
                self._loop.call_soon_threadsafe(self._cancel, waiting)

    def end(self) -> None:
        """Start to end the running calls, which then raise `ClientClosedError`. Does not wait."""
        with self._lock:
            if not self._ending:
                self._ending = True
                self._loop.call_soon_threadsafe(self._begin_end)

    def end_quietly(self) -> None:
        """End without waking callers: any thread that still waits then ends with the process."""
        if self.is_ours:
            self._quiet = True
            self.end()
            self.join()

    def join(self) -> None:
        """Wait for the thread, unless this is that thread or a forked process."""
        if self.is_ours and threading.current_thread() is not self._thread:
            self._thread.join(_END_S)

    def _serve(self) -> None:
        try:
            self._loop.run_forever()
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()

    def _start(self, call: Coroutine[Any, Any, Any], waiting: Future[Any]) -> None:
        if waiting.cancelled():
            call.close()
            return
        task = self._loop.create_task(call)
        self._calls[task] = waiting
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        waiting = self._calls.pop(task)
        error = None if task.cancelled() else task.exception()
        if self._quiet:
            return
        with suppress(InvalidStateError):  # the caller was interrupted just now
            if task.cancelled():
                waiting.cancel()
            elif error is not None:
                waiting.set_exception(error)
            else:
                waiting.set_result(task.result())

    def _cancel(self, waiting: Future[Any]) -> None:
        for task, known in self._calls.items():
            if known is waiting:
                task.cancel()

    def _begin_end(self) -> None:
        self._last_task = self._loop.create_task(self._finish())

    async def _finish(self) -> None:
        try:
            async with asyncio.timeout(_END_S / 2):
                await self._on_close()
        except TimeoutError:
            pass  # a socket that does not close in time is closed with the process
        finally:
            for task in self._calls:
                task.cancel()
            if self._calls:
                await asyncio.wait(list(self._calls), timeout=_END_S / 4)
            if not self._quiet:
                for waiting in self._calls.values():
                    waiting.cancel()
            self._loop.stop()
