"""Commands that are ready together go to Redis as one pipeline, each with a reply, an error and retries of its own.

Why not redis-py's pipeline alone: it does not gather what independent roles have ready, one lost reply would be every
command's, and one late reply would delay all. Here it only carries what goes together.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from rollstream.transport.redis.confirmed import confirmed, too_few, wait_words
from rollstream.transport.redis.scripts import Call, Word

AT_ONCE = 4
"""Pipelines under way to one stream, each on its own connection, so that a late or lost reply delays few others."""
_MOST, _MOST_BYTES = 64, 2**20
"""The most commands and bytes of one pipeline; a single command may have more bytes."""
_LATE_S = 0.05
"""Seconds after which other commands no longer wait for an unanswered pipeline."""


class _Waiting(NamedTuple):
    """A command that waits to be sent, and whether its reply counts only once replicas have what it wrote."""

    command: Sequence[Word]
    reply: asyncio.Future[Any]
    is_confirmed: bool


@dataclass(slots=True, kw_only=True)
class _Queue:
    """The commands that wait to be sent for one stream.

    `Pipelines` alone changes it, between two awaits: a call adds its command, a sender takes those of its next
    pipeline, and a timer notes whether it watches.
    """

    waiting: deque[_Waiting] = field(default_factory=deque)
    senders: set[object] = field(default_factory=set)
    busy_since: float = 0.0
    """When a sender last had something to send, or was started (seconds of the event loop)."""
    is_watched: bool = False
    """Whether a timer will soon look again at the waiting commands."""

    def wants_sender(self, now: float) -> bool:
        """Whether to start one more sender: the first at once, others if the senders fall behind."""
        if not self.senders:
            return True
        behind = len(self.waiting) > _MOST or now - self.busy_since > _LATE_S
        return behind and len(self.senders) < AT_ONCE

    def next(self) -> list[_Waiting]:
        """The commands for the next pipeline, without those whose caller has given up."""
        chosen: list[_Waiting] = []
        nbytes = 0
        while self.waiting and len(chosen) < _MOST and nbytes < _MOST_BYTES:
            one = self.waiting.popleft()
            if not one.reply.done():
                chosen.append(one)
                nbytes += sum(len(word) for word in one.command if isinstance(word, bytes))
        return chosen


class Pipelines:
    """Sends what roles of the same event loop have for one stream. What is sent together shares no fate but the link's.

    Streams are kept apart: what waits for one node of a cluster keeps nothing from the others.
    """

    def __init__(self, redis: Redis, *, wait: int = 0) -> None:
        """`wait`: how many replicas must have what a script wrote before its reply counts."""
        self._redis = redis
        self._wait = wait
        self._queues: defaultdict[str, _Queue] = defaultdict(_Queue)

    async def send(self, stream: str, *command: Word) -> Any:
        """The reply to `command`, whose keys must be in the partition of `stream`. Raises `RedisError`."""
        return await self._sent(stream, command)

    async def _sent(self, stream: str, command: Sequence[Word], *, is_confirmed: bool = False) -> Any:
        queue = self._queues[stream]
        reply = asyncio.get_running_loop().create_future()
        queue.waiting.append(_Waiting(command, reply, is_confirmed))
        if not (queue.senders and queue.is_watched) or len(queue.waiting) > _MOST:
            self._see_to(queue)
        return await reply

    async def run(self, call: Call) -> Any:
        """The script's reply; the first key of the call is the stream. Raises `RedisError`, `UnconfirmedError`."""
        try:
            return await self._sent(call.keys[0], call.by_digest, is_confirmed=self._wait > 0)
        except NoScriptError:  # nothing ran
            return await confirmed(self._redis, call, self._wait, whole=True)

    def _see_to(self, queue: _Queue) -> None:
        loop = asyncio.get_running_loop()
        if queue.wants_sender(now := loop.time()):
            queue.busy_since = now
            # The task starts after all callers that are ready now, so that their commands share the pipeline.
            queue.senders.add(loop.create_task(self._send_all(queue)))
        if not queue.is_watched:
            queue.is_watched = True
            loop.call_later(_LATE_S, self._look_again, queue)

    def _look_again(self, queue: _Queue) -> None:
        queue.is_watched = False
        if queue.waiting:
            self._see_to(queue)

    async def _send_all(self, queue: _Queue) -> None:
        try:
            while chosen := queue.next():
                queue.busy_since = asyncio.get_running_loop().time()
                await self._send(chosen)
        finally:
            queue.senders.discard(asyncio.current_task())

    async def _send(self, chosen: list[_Waiting]) -> None:
        pipe: Any = self._redis.pipeline(transaction=False)  # redis-py does not type what queues a command
        for one in chosen:
            pipe.execute_command(*one.command)
        is_confirmed = any(one.is_confirmed for one in chosen)
        if is_confirmed:  # one WAIT for all that was written on this connection
            pipe.execute_command(*wait_words(self._wait))
        try:
            found = await pipe.execute(raise_on_error=False)
        except RedisError as error:
            found = [error] * (len(chosen) + is_confirmed)
        except BaseException as error:  # the callers must get it
            self._answer(chosen, [error] * len(chosen), error)
            raise
        waited = found.pop() if is_confirmed else 0
        self._answer(chosen, found, waited)

    def _answer(self, chosen: list[_Waiting], found: list[Any], waited: Any) -> None:
        for one, value in zip(chosen, found, strict=True):
            if one.reply.done():  # its caller has given up
                continue
            problem = (
                value if isinstance(value, BaseException) else self._unconfirmed(waited) if one.is_confirmed else None
            )
            if problem is None:
                one.reply.set_result(value)
            else:
                one.reply.set_exception(problem)

    def _unconfirmed(self, waited: Any) -> BaseException | None:
        """Why the replicas do not have it, as far as is known."""
        return waited if isinstance(waited, BaseException) else too_few(waited, self._wait)
