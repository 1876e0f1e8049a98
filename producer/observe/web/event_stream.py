"""Readings as server-sent events: one slow browser holds up nobody and makes nothing pile up."""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive, Scope, Send

from ...http.gone import until_gone
from .live_readings import Event, LiveReadings

MOST_STREAMS = 100
_QUIET_S = 15.0
"""After so many seconds without an event a comment is sent, so that nothing between takes the connection for dead."""
_LAST_S = 0.5
"""So long a browser gets to take the last bytes when the server ends."""
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


def encoded(event: Event) -> bytes:
    """The event as it is sent; its data has no line end."""
    return b"event: " + event.name.encode() + b"\ndata: " + event.data + b"\n\n"


class EventStream:
    """The answer to one browser, until it goes or the readings end."""

    def __init__(self, readings: LiveReadings) -> None:
        self._readings = readings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send readings as they come. What is not taken in time is left out."""
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        if scope["method"] == "HEAD":
            await send(_body(b"", more=False))
            return
        sending = asyncio.ensure_future(self._send(send))
        gone = asyncio.ensure_future(until_gone(receive))
        closed = asyncio.ensure_future(self._readings.closed.wait())
        tasks = {sending, gone, closed}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if closed.done():
                await asyncio.wait({sending}, timeout=_LAST_S)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if not sending.cancelled():
            sending.result()

    async def _send(self, send: Send) -> None:
        with self._readings.watching() as watcher:
            await send(_body(b"retry: 1000\n\n"))
            while True:
                try:
                    async with asyncio.timeout(_QUIET_S):
                        events = await watcher.news()
                except TimeoutError:
                    await send(_body(b": still here\n\n"))
                    continue
                if not events:
                    break
                await send(_body(b"".join(map(encoded, events))))
        await send(_body(b"", more=False))


def _body(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}
