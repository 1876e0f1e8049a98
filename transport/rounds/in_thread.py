"""A call that may hang for ever in a GPU's driver runs in a thread that stops nobody, nor the interpreter's end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


def in_thread(call: Callable[[], T]) -> asyncio.Future[T]:
    """Done when `call` has returned, with its result or error. Cancelling the future does not end the call."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()
    done.add_done_callback(_seen)

    def run() -> None:
        result: Any = None
        error: Exception | None = None
        try:
            result = call()
        except Exception as raised:  # noqa: BLE001 - a thread's rim: the error goes to who waits
            error = raised
        with suppress(RuntimeError):  # the loop may have ended meanwhile
            loop.call_soon_threadsafe(_settle, done, result, error)

    threading.Thread(target=run, name="round", daemon=True).start()
    return done


def _settle(done: asyncio.Future[T], result: T, error: Exception | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)


def _seen(done: asyncio.Future[Any]) -> None:
    """An error is no news to asyncio where nobody waits for the call any more."""
    if not done.cancelled():
        done.exception()
