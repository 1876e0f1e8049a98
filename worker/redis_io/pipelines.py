"""Commands that are ready together go to Redis as one pipeline, each with a reply, an error and retries of its own.

Why not redis-py's pipeline alone: it does not gather what independent roles have ready, one lost reply would be every
command's, and one late reply would delay all. Here it only carries what goes together.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from rollstream.transport.redis.scripts import Call, Word

AT_ONCE = 4
"""Pipelines under way to one stream, each on its own connection, so that a late or lost reply delays few others."""
_MOST, _MOST_BYTES = 64, 2**20
"""The most commands and bytes of one pipeline; a single command may have more bytes."""
_LATE_S = 0.05
"""Seconds after which other commands no longer wait for an unanswered pipeline."""


@dataclass(slots=True, kw_only=True)
class _Queue:
    """The commands that wait to be sent for one stream.

    `Pipelines` alone changes it, between two awaits: a call adds its command, a sender takes those of its next
    pipeline, and a timer notes whether it watches.
    """

    waiting: deque[tuple[Sequence[Word], asyncio.Future[Any]]] = field(default_factory=deque)
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

    def next(self) -> list[tuple[Sequence[Word], asyncio.Future[Any]]]:
        """The commands for the next pipeline, without those whose caller has given up."""
        chosen: list[tuple[Sequence[Word], asyncio.Future[Any]]] = []
        nbytes = 0
        while self.waiting and len(chosen) < _MOST and nbytes < _MOST_BYTES:
            command, reply = self.waiting.popleft()
            if not reply.done():
                chosen.append((command, reply))
                nbytes += sum(len(word) for word in command if isinstance(word, bytes))
        return chosen


class Pipelines:
    """Sends what roles of the same event loop have for one stream. What is sent together shares no fate but the link's.

    Streams are kept apart: what waits for one node of a cluster keeps nothing from the others.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._queues: defaultdict[str, _Queue] = defaultdict(_Queue)

    async def send(self, stream: str, *command: Word) -> Any:
        """The reply to `command`, whose keys must be in the partition of `stream`. Raises `RedisError`."""
        queue = self._queues[stream]
        reply = asyncio.get_running_loop().create_future()
        queue.waiting.append((command, reply))
        if not (queue.senders and queue.is_watched) or len(queue.waiting) > _MOST:
            self._see_to(queue)
        return await reply

    async def run(self, call: Call) -> Any:
        """The script's reply; the first key of the call is the stream. Raises `RedisError`."""
        try:
            return await self.send(call.keys[0], *call.by_digest)
        except NoScriptError:  # nothing ran
            return await call.whole_to(self._redis)

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
                await self._send([command for command, _ in chosen], [reply for _, reply in chosen])
        finally:
            queue.senders.discard(asyncio.current_task())

    async def _send(self, commands: list[Sequence[Word]], replies: list[asyncio.Future[Any]]) -> None:
        pipe: Any = self._redis.pipeline(transaction=False)  # redis-py does not type what queues a command
        for command in commands:
            pipe.execute_command(*command)
        try:
            found = await pipe.execute(raise_on_error=False)
        except RedisError as error:
            found = [error] * len(commands)
        except BaseException as error:  # the callers must get it
            _answer(replies, [error] * len(commands))
            raise
        _answer(replies, found)


def _answer(replies: list[asyncio.Future[Any]], found: list[Any]) -> None:
    for reply, value in zip(replies, found, strict=True):
        if reply.done():  # its caller has given up
            continue
        if isinstance(value, BaseException):
            reply.set_exception(value)
        else:
            reply.set_result(value)
