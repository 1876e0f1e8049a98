"""A call that may hang for ever in a GPU's driver runs in a thread that stops nobody, nor the interpreter's end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress


def in_thread(call: Callable[[], None]) -> asyncio.Future[None]:
    """Done when `call` has returned, with its error. Cancelling the future does not end the call."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle(error: Exception | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def run() -> None:
        error: Exception | None = None
        try:
            call()
        except Exception as raised:  # noqa: BLE001 - a thread's rim: the error goes to who waits
            error = raised
        with suppress(RuntimeError):  # the loop may have ended meanwhile
            loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=run, name="round", daemon=True).start()
    return done
