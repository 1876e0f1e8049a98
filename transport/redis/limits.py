"""How much one command may carry. Redis closes the connection on what is too large, which looks like a lost link.

So whoever sends megabytes asks for the limits before, or once the link did not survive a command: `Oversize` tells the
two apart. Where a server does not say its limits (managed ones), what breaks the link time after time, while it answers
everything else, is taken for too large.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from redis import exceptions
from redis.asyncio import Redis

from .cluster import nodes_of
from .faults import AWAY, CUT_OFF, HUNG_UP, fault_of

ALWAYS_FITS = 2**20
"""Bytes: neither limit can be set lower."""
_SUSPICIOUS = 2**16
"""Bytes from which on a size is suspected where the limits are not known: a proxy may have lower ones."""
_TIMES = 5
"""A command that broke the link so often in a row, each time with an answer to PING after it, is too large."""
_ARGUMENT, _COMMAND = "proto-max-bulk-len", "client-query-buffer-limit"


@dataclass(frozen=True, slots=True)
class TooLarge:
    """What is more than Redis takes, and its limit: 0 where only the broken link tells that there is one."""

    nbytes: int
    limit: int
    setting: str

    def __str__(self) -> str:
        if self.limit:
            return f"{self.nbytes} bytes, and this Redis takes at most {self.limit} ({self.setting})"
        told = "whose limit is not known here; its own is " + _ARGUMENT
        return f"{self.nbytes} bytes: this Redis, or a proxy before it, closes the connection on them, {told}"


@dataclass(frozen=True, slots=True)
class Limits:
    """Of the node that takes the least, in bytes; 0: not known."""

    argument: int
    command: int

    def exceeded_by(self, argument: int, command: int) -> TooLarge | None:
        """Which limit the largest argument, or the whole command, goes beyond."""
        for nbytes, limit, setting in ((argument, self.argument, _ARGUMENT), (command, self.command, _COMMAND)):
            if 0 < limit < nbytes:
                return TooLarge(nbytes, limit, setting)
        return None


UNKNOWN = Limits(0, 0)


async def read_limits(redis: Redis) -> Limits:
    """`UNKNOWN` where no node tells. Raises `RedisError` where Redis is away."""
    found = [await _limits(node) for node in (await nodes_of(redis)).values()]
    return Limits(
        min((one.argument for one in found if one.argument), default=0),
        min((one.command for one in found if one.command), default=0),
    )


async def _limits(node: Redis) -> Limits:
    try:  # one by one: several names in a command need Redis 7
        return Limits(await _limit(node, _ARGUMENT), await _limit(node, _COMMAND))
    except exceptions.ResponseError:  # taken away, renamed, or a proxy that does not know it
        return UNKNOWN


async def _limit(node: Redis, name: str) -> int:
    told: Any = await node.config_get(name)
    value = str(told.get(name, ""))
    return int(value) if value.isdigit() else 0


async def _answered_limits(redis: Redis) -> Limits | None:
    """None where Redis does not answer. It is asked twice: the first time may meet the connection that was closed."""
    for _ in range(2):
        try:
            limits = await read_limits(redis)
            await redis.ping()
        except exceptions.RedisError:
            continue
        return limits
    return None


class Oversize:
    """Whether one command breaks the link by its size. One object a command, asked after each failure of it."""

    def __init__(self, argument: int, command: int) -> None:
        self._argument = argument
        self._command = command
        self._times = 0

    @property
    def is_suspect(self) -> bool:
        """Whether the link was lost with it: it must not travel with others again."""
        return self._times > 0

    async def why(self, error: exceptions.RedisError, redis: Redis) -> TooLarge | None:
        """Why the command can never pass, where `error` tells of a lost link and that is known by now."""
        if self._argument < _SUSPICIOUS or fault_of(error) not in (AWAY, CUT_OFF, HUNG_UP):
            return None
        limits = await _answered_limits(redis)
        if limits is None:
            self._times = 0  # it is the link itself
            return None
        self._times += 1
        if limits == UNKNOWN and self._times >= _TIMES:
            return TooLarge(self._argument, 0, "")
        return limits.exceeded_by(self._argument, self._command)
