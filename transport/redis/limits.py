"""How large one command may be. Redis closes the connection on a command that is too large, as if it were lost.

So code that sends megabytes asks for the limits, before it sends them or after a connection was lost: `Oversize` tells
the two causes apart. If a server does not tell its limits (managed services), a command that breaks the connection
again and again, while Redis answers everything else, counts as too large.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from redis import exceptions
from redis.asyncio import Redis

from .cluster import nodes_of
from .faults import AWAY, CUT_OFF, HUNG_UP, fault_of

ALWAYS_FITS = 2**20
"""Bytes. Neither of Redis' limits can be set lower."""
_SUSPICIOUS = 2**16
"""Bytes. Only a larger command can be to blame for a lost connection; a proxy may have lower limits than Redis."""
_TIMES = 5
"""A command that broke the connection so often in a row, while Redis answered PING each time after, is too large."""
_ARGUMENT, _COMMAND = "proto-max-bulk-len", "client-query-buffer-limit"


@dataclass(frozen=True, slots=True, kw_only=True)
class TooLarge:
    """A size that Redis does not take, and the limit; 0 if only the broken connection shows that there is one."""

    nbytes: int
    limit: int
    setting: str

    def __str__(self) -> str:
        if self.limit:
            return f"{self.nbytes} bytes, and this Redis takes at most {self.limit} ({self.setting})"
        told = "whose limit is not known here; its own is " + _ARGUMENT
        return f"{self.nbytes} bytes: this Redis, or a proxy before it, closes the connection on them, {told}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of the node with the lowest ones, in bytes; 0: not known."""

    argument: int
    command: int

    def exceeded_by(self, argument: int, command: int) -> TooLarge | None:
        """Which limit is exceeded by the largest argument, or by the whole command; None if none is."""
        for nbytes, limit, setting in ((argument, self.argument, _ARGUMENT), (command, self.command, _COMMAND)):
            if 0 < limit < nbytes:
                return TooLarge(nbytes=nbytes, limit=limit, setting=setting)
        return None


UNKNOWN = Limits(argument=0, command=0)


async def read_limits(redis: Redis) -> Limits:
    """Ask Redis for its limits; `UNKNOWN` if no node tells. Raises `RedisError` while Redis is away."""
    found = [await _limits(node) for node in (await nodes_of(redis)).values()]
    return Limits(
        argument=min((one.argument for one in found if one.argument), default=0),
        command=min((one.command for one in found if one.command), default=0),
    )


async def _limits(node: Redis) -> Limits:
    try:  # one by one: several names in a command need Redis 7
        return Limits(argument=await _limit(node, _ARGUMENT), command=await _limit(node, _COMMAND))
    except exceptions.ResponseError:  # CONFIG is forbidden, renamed, or unknown to a proxy
        return UNKNOWN


async def _limit(node: Redis, name: str) -> int:
    told: Any = await node.config_get(name)
    value = str(told.get(name, ""))
    return int(value) if value.isdigit() else 0


async def _answered_limits(redis: Redis) -> Limits | None:
    """The limits; None if Redis does not answer. Asked twice: the first attempt may get the closed connection."""
    for _ in range(2):
        try:
            limits = await read_limits(redis)
            await redis.ping()
        except exceptions.RedisError:
            continue
        return limits
    return None


class Oversize:
    """Whether one command breaks the connection by its size. One object for each command, asked after each failure."""

    def __init__(self, *, argument: int, command: int) -> None:
        self._argument = argument
        self._command = command
        self._times = 0

    @property
    def is_suspect(self) -> bool:
        """Whether the connection was lost with this command: then it must not share a pipeline with others again."""
        return self._times > 0

    async def why(self, error: exceptions.RedisError, redis: Redis) -> TooLarge | None:
        """Why the command can never pass, if `error` is a lost connection and the size is known to be the cause."""
        if self._argument < _SUSPICIOUS or fault_of(error) not in (AWAY, CUT_OFF, HUNG_UP):
            return None
        limits = await _answered_limits(redis)
        if limits is None:
            self._times = 0  # Redis does not answer at all, so the size is not to blame
            return None
        self._times += 1
        if limits == UNKNOWN and self._times >= _TIMES:
            return TooLarge(nbytes=self._argument, limit=0, setting="")
        return limits.exceeded_by(self._argument, self._command)
