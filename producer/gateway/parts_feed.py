"""What the running completions of streams have by now: one task asks Redis for all streams together.

A part is what a worker keeps so that another goes on from there. So what is read here stays true when that worker dies.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

from redis.asyncio import Redis

from rollstream.schemas import Keys, Part, SchemaError, decode
from rollstream.schemas.field_values import count_of
from rollstream.schemas.hashes.part_fields import FINISHED, part_field, tokens_field

from ..errors import RedisUnavailableError
from ..redis_io.connection import Connection

EVERY_S = 0.05
"""Seconds between two looks; with many streams a look is followed by a pause of four times its own length."""
_PAUSE = 4
_COMMANDS = 128
"""Most commands of one pipeline."""
_ALL = 2**31

Name = tuple[int, int]
"""Group and sample."""

log = logging.getLogger("rollstream")


class Watch:
    """One batch that is watched. The feed writes `found` and wakes it; its stream takes what is there."""

    def __init__(self, *, batch_id: str, names: Sequence[Name]) -> None:
        self.batch_id = batch_id
        self.names = names
        self.seen: dict[Name, int] = {}
        """How far each sample was when it was read last; nothing is read twice."""
        self._found: dict[Name, Part] = {}
        self._woken = asyncio.Event()

    async def news(self) -> dict[Name, Part]:
        """Wait until parts have grown; each with all of its tokens, the newest alone."""
        await self._woken.wait()
        self._woken.clear()
        found, self._found = self._found, {}
        return found

    def put(self, name: Name, part: Part) -> None:
        """The feed read it."""
        self._found[name] = part
        self._woken.set()

    def fields(self) -> list[str]:
        """Where it stands how far each sample is."""
        return [tokens_field(*name) for name in self.names]

    def grown(self, told: Sequence[bytes | None]) -> list[Name]:
        """Samples that have more tokens than when they were read last."""
        found = []
        for name, value in zip(self.names, told, strict=True):
            length = _length(value)
            if length > self.seen.get(name, 0):
                self.seen[name] = length
                found.append(name)
        return found


class PartsFeed:
    """`run` alone asks Redis, while anybody watches. What cannot be read is left out: the answer will come."""

    def __init__(self, *, connection: Connection, keys: Keys, every_s: float = EVERY_S) -> None:
        self._connection = connection
        self._keys = keys
        self._every_s = every_s
        self._watches: set[Watch] = set()
        self._watched = asyncio.Event()
        self.trouble = ""
        """Why the last look failed; empty if it did not."""

    @contextmanager
    def watching(self, batch_id: str, names: Iterable[Name]) -> Iterator[Watch]:
        """Watch these samples, for the length of the block."""
        watch = Watch(batch_id=batch_id, names=tuple(names))
        self._watches.add(watch)
        self._watched.set()
        try:
            yield watch
        finally:
            self._watches.discard(watch)
            if not self._watches:
                self._watched.clear()

    async def run(self) -> NoReturn:
        """Look again and again, until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            await self._watched.wait()
            began = clock()
            try:
                await self._look(list(self._watches))
            except RedisUnavailableError as error:
                self._tell(str(error))
            else:
                self.trouble = ""
            took = clock() - began
            await asyncio.sleep(max(self._every_s - took, _PAUSE * took))

    def _tell(self, trouble: str) -> None:
        if trouble != self.trouble:
            log.warning("gateway: streams wait for their ends: %s", trouble)
        self.trouble = trouble

    async def _look(self, watches: list[Watch]) -> None:
        asked = [(self._keys.parts(one.batch_id), one.fields()) for one in watches]
        told = await self._values(asked)
        grown = [(one, one.grown(values)) for one, values in zip(watches, told, strict=True)]
        grown = [(one, names) for one, names in grown if names]
        parts = await self._values(
            [(self._keys.parts(one.batch_id), [part_field(*name) for name in names]) for one, names in grown]
        )
        for (watch, names), payloads in zip(grown, parts, strict=True):
            for name, payload in zip(names, payloads, strict=True):
                if (part := _read(payload, watch.batch_id, name)) is not None:
                    watch.put(name, part)
                await asyncio.sleep(0)  # others are served between two of many

    async def _values(self, asked: list[tuple[str, list[str]]]) -> list[list[bytes | None]]:
        """What stands in these fields of these hashes; a key of another type has nothing."""
        found: list[list[bytes | None]] = []
        for first in range(0, len(asked), _COMMANDS):
            some = asked[first : first + _COMMANDS]
            replies = await self._connection.call("follow completions", partial(_hmget, asked=some))
            found += [
                [None] * len(fields) if isinstance(reply, Exception) else reply
                for (_, fields), reply in zip(some, replies, strict=True)
            ]
        return found


async def _hmget(redis: Redis, asked: list[tuple[str, list[str]]]) -> list[Any]:
    async with redis.pipeline(transaction=False) as pipe:
        for key, fields in asked:
            pipe.hmget(key, fields)
        replies: list[Any] = await pipe.execute(raise_on_error=False)
    for reply in replies:
        if isinstance(reply, Exception) and not str(reply).startswith("WRONGTYPE"):
            raise reply
    return replies


def _length(value: bytes | None) -> int:
    """How many tokens; of a finished sample more than of any other, so that it is read once."""
    if value is None:
        return 0
    return _ALL if value == FINISHED.encode() else min(count_of(value) or 0, _ALL - 1)


def _read(payload: bytes | None, batch_id: str, name: Name) -> Part | None:
    if payload is None:
        return None
    try:
        part = decode(payload, Part)
    except SchemaError as error:
        log.warning("batch %s: a part cannot be read: %s", batch_id, error)
        return None
    is_this = (part.batch_id, part.group, part.sample) == (batch_id, *name)
    return part if is_this and part.token_ids.numpy().min(initial=0) >= 0 else None
