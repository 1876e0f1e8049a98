"""Asks the Sentinels where the primary is. All that answer are asked, and the one that knows of the last failover wins.

redis-py's `Sentinel` believes the first that answers: one that was cut off during a failover names the old primary.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.sentinel import Sentinel

from .faults import fault_of, text_of
from .sentinel_errors import (
    NoPrimaryError,
    NotASentinelError,
    SentinelError,
    SentinelLoginError,
    SentinelsAwayError,
    UnknownServiceError,
)
from .urls import Address

ANSWER_S = 2.0
"""The longest time, in seconds, that one Sentinel is waited for; once more than half have answered, none is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Primary:
    """The primary, as a Sentinel names it."""

    address: Address
    epoch: int
    """Grows with each failover of the service: two failovers may end at the first address."""
    told_by: str
    """Host and port of that Sentinel."""
    is_down: bool = False

    def is_other_than(self, before: Primary) -> bool:
        """Whether there was a failover between the two."""
        return (self.address, self.epoch) != (before.address, before.epoch)


class Sentinels(Sentinel):
    """The Sentinels that a URL names; redis-py's class, with another way to find the primary."""

    def __init__(self, clients: Mapping[Address, Redis]) -> None:
        super().__init__([])  # type: ignore[no-untyped-call] # redis-py's
        self.sentinels = list(clients.values())
        self._named = [(f"{host}:{port}", client) for (host, port), client in clients.items()]
        self._turn = 0

    async def discover_master(self, service_name: str) -> Address:
        """The primary's address; raises as `discover` does."""
        return (await self.discover(service_name)).address

    async def discover(self, service: str) -> Primary:
        """The primary that the Sentinels agree on. Raises `SentinelError`."""
        asked = {asyncio.create_task(_asked(name, client, service)) for name, client in self._named}
        told = await _most_of(asked)
        primaries = [each for each in told if isinstance(each, Primary)]
        if not primaries:
            raise _worst(service, [each for each in told if isinstance(each, SentinelError)])
        epoch = max(each.epoch for each in primaries)
        newest = sorted((each for each in primaries if each.epoch == epoch), key=lambda each: each.is_down)[0]
        if newest.is_down:
            host, port = newest.address
            problem = (
                f"the Sentinels say that the primary of {service!r}, {host}:{port}, is down, and promoted no replica"
            )
            raise NoPrimaryError(service, problem)
        return newest

    async def next_answer(self, service: str) -> Primary | None:
        """What one Sentinel says, each in turn; None if it says nothing."""
        self._turn = (self._turn + 1) % len(self._named)
        told = await _asked(*self._named[self._turn], service)
        return told if isinstance(told, Primary) else None


async def _most_of(asked: set[asyncio.Task[Primary | SentinelError]]) -> list[Primary | SentinelError]:
    """What was told until more than half have named a primary, or all have answered."""
    told: list[Primary | SentinelError] = []
    waiting, enough = asked, len(asked) // 2 + 1
    try:
        while waiting and sum(isinstance(each, Primary) for each in told) < enough:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            told += [task.result() for task in done]
    finally:
        for late in waiting:
            late.cancel()
    return told


async def _asked(name: str, client: Any, service: str) -> Primary | SentinelError:
    """What one Sentinel tells. It never waits for longer than `ANSWER_S`."""
    try:
        async with asyncio.timeout(ANSWER_S):
            return _read(name, await client.execute_command("SENTINEL MASTER", service))
    except TimeoutError:
        return SentinelsAwayError(service, f"{name}: no answer within {ANSWER_S:g} s")
    except exceptions.RedisError as error:
        return await _problem(name, client, service, error)


def _read(name: str, state: Mapping[str, Any]) -> Primary:
    """What a Sentinel wrote is not believed before it is looked at. Raises `ResponseError`."""
    host, port, epoch, flags = (state.get(key) for key in ("ip", "port", "config-epoch", "flags"))
    if not isinstance(host, str) or not 0 < len(host) <= 253 or not host.isprintable():
        raise exceptions.ResponseError("it names no address")
    if not isinstance(port, int) or not 0 < port < 65536 or not isinstance(epoch, int):
        raise exceptions.ResponseError("it names no port")
    is_down = bool({"s_down", "o_down"} & set(flags if isinstance(flags, set) else str(flags).split(",")))
    return Primary(address=(host, port), epoch=epoch, told_by=name, is_down=is_down)


async def _problem(name: str, client: Any, service: str, error: exceptions.RedisError) -> SentinelError:
    text = text_of(error)
    if "No such master" in text:
        return UnknownServiceError(service, f"{name} watches no {service!r}{await _similar(client, service)}")
    if isinstance(error, exceptions.AuthenticationError | exceptions.NoPermissionError) or "NOAUTH" in text:
        return SentinelLoginError(service, f"{name}: {text}")
    if isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError):
        away = SentinelsAwayError(service, f"{name}: {text}")
        away.__cause__ = error  # in which there may be an error of TLS
        return away
    if "unknown command" in text.lower():
        return NotASentinelError(service, f"what answers at {name} is no Sentinel")
    return (SentinelsAwayError if fault_of(error).passes else NotASentinelError)(service, f"{name}: {text}")


async def _similar(client: Any, service: str) -> str:
    """The names that it does watch, as far as it tells them."""
    try:
        async with asyncio.timeout(ANSWER_S):
            names = [str(name) for name in await client.execute_command("SENTINEL MASTERS")]
    except (exceptions.RedisError, TimeoutError, TypeError):
        return ""
    near = difflib.get_close_matches(service, names, 3, 0) if names else []
    return f", but {', '.join(repr(name)[:60] for name in near)}" if near else ", and nothing else"


def _worst(service: str, told: Sequence[SentinelError]) -> SentinelError:
    """One error for all: what a Sentinel answered says more than that another was silent."""
    kinds = (UnknownServiceError, SentinelLoginError, NotASentinelError, SentinelsAwayError)
    kind = next(kind for kind in kinds if any(isinstance(each, kind) for each in told))
    said = "; ".join(each.problem for each in told if isinstance(each, kind))
    found = kind(service, f"no Sentinel answers ({said})" if kind is SentinelsAwayError else said)
    found.__cause__ = next((each.__cause__ for each in told if isinstance(each, kind)), None)
    return found
