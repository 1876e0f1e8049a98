"""The events of one answer while it is made, and how they get to the client."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from typing import Any, Protocol

from starlette.types import Message, Receive, Scope, Send

from rollstream.schemas import Completion, GroupError, GroupResult, Part

from ..batches.handle import BatchHandle
from ..http.gone import until_gone
from .answers.pieces import Piece
from .answers.usage import usage_of
from .errors import ApiError
from .faults import DEFECT, failed
from .gate import answer_of
from .orders import Order
from .parts_feed import Name, PartsFeed

_QUIET_S = 15.0
"""After so many seconds without an event a comment is sent, so that nothing between takes the connection for dead."""
_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
_DONE = b"data: [DONE]\n\n"

log = logging.getLogger("rollstream")


class Growing(Protocol):
    """One choice of a stream."""

    def grow(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """Choices, each for a chunk of its own, of what the completion has by now."""

    def end(self, result: GroupResult, one: Completion) -> Iterator[dict[str, Any]]:
        """What is left, and why it ended."""


class Form(Protocol):
    """The shape of the answers to one request."""

    def chunk(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> dict[str, Any]:
        """One event of a stream."""

    def growing(self, group: int, sample: int) -> Growing:
        """One choice of a stream."""


def encoded(told: Mapping[str, Any]) -> bytes:
    """An event as it is sent: JSON has no line end."""
    return b"data: " + json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def results_of(answers: Mapping[int, GroupResult | GroupError], words: Mapping[str, str]) -> list[GroupResult]:
    """The results in the order of the prompts. Raises `ApiError` for the first group that failed, in the request's
    `words` (`Asked.words`).
    """
    found = []
    for _, answer in sorted(answers.items()):
        if isinstance(answer, GroupError):
            raise failed(answer, words)
        found.append(answer)
    return found


class Events:
    """Chunks of what Redis has of the running completions, then the rest from the result."""

    def __init__(
        self, *, feed: PartsFeed, order: Order, handle: BatchHandle, form: Form, usage: bool, words: Mapping[str, str]
    ) -> None:
        self._feed = feed
        self._order = order
        self._handle = handle
        self._form = form
        self._usage = usage
        self._words = words
        samples = range(handle.batch.config.num_return_sequences)
        self._names = [(group, sample) for group in range(handle.num_groups) for sample in samples]
        self._choices: dict[Name, Growing] = {}

    async def chunks(self) -> AsyncGenerator[bytes]:
        """Each event. Raises `ApiError`, and ends with nothing that could be taken for an end."""
        done = asyncio.ensure_future(self._handle.wait())
        try:
            async for parts in self._parts(done):
                for name, part in parts.items():
                    for choice in self._choice(name).grow(Piece.of_part(part)):
                        yield encoded(self._form.chunk([choice]))
            results = results_of(await self._order.first(done), self._words)
            for choice in self._ends(results):
                yield encoded(self._form.chunk([choice]))
            if self._usage:
                yield encoded(self._form.chunk([], usage_of(results)))
            yield _DONE
        finally:
            done.cancel()

    async def _parts(self, done: asyncio.Future[Any]) -> AsyncGenerator[dict[Name, Part]]:
        with self._feed.watching(self._handle.batch_id, self._names) as watch:
            while not done.done():
                found = await self._order.first(watch.news(), done)
                if found is not None:
                    yield found

    def _choice(self, name: Name) -> Growing:
        """Made when there is something of it: a request may have thousands."""
        if name not in self._choices:
            self._choices[name] = self._form.growing(*name)
        return self._choices[name]

    def _ends(self, results: Sequence[GroupResult]) -> Iterator[dict[str, Any]]:
        for result in results:
            for one in result:
                yield from self._choice((result.group, one.sample)).end(result, one)


class EventResponse:
    """The answer to one client, until it goes or the events end. Its status is known with the first event."""

    def __init__(self, *, events: AsyncGenerator[bytes], order: Order) -> None:
        self._events = events
        self._order = order

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events as they come."""
        sending = asyncio.ensure_future(self._send(scope, receive, send))
        gone = asyncio.ensure_future(until_gone(receive))
        try:
            await asyncio.wait({sending, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                self._order.give_up()
        finally:
            for task in (sending, gone):
                task.cancel()
            await asyncio.wait({sending, gone})
            await self._events.aclose()
        if not sending.cancelled():
            sending.result()

    async def _send(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False
        try:
            async for event in self._beside_comments():
                if not has_begun:
                    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
                    has_begun = True
                await send(_body(event, more=True))
        except ApiError as error:
            self._order.give_up()
            if not has_begun:
                await answer_of(error)(scope, receive, send)
                return
            await send(_body(encoded(error.body()), more=True))
        except Exception as error:  # a request's rim: a client whose stream has begun is told, and others go on
            log.error("a defect, in a stream", exc_info=error)
            self._order.give_up()
            if not has_begun:
                raise
            await send(_body(encoded(ApiError(500, DEFECT).body()), more=True))
        await send(_body(b"", more=False))

    async def _beside_comments(self) -> AsyncGenerator[bytes]:
        """The events, and a comment where there is none for long."""
        coming: asyncio.Future[bytes] | None = None
        try:
            while True:
                coming = coming or asyncio.ensure_future(anext(self._events))
                await asyncio.wait({coming}, timeout=_QUIET_S)
                if not coming.done():
                    yield b": still here\n\n"
                    continue
                event, coming = coming, None
                try:
                    yield event.result()
                except StopAsyncIteration:
                    return
        finally:
            if coming is not None:
                coming.cancel()
                await asyncio.wait({coming})


def _body(data: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}
