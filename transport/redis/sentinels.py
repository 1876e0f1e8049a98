"""Asks the Sentinels where the primary is. All are asked, and more than half of those that answer must name the same.

redis-py's `Sentinel` believes the first that answers: one that was cut off during a failover names the old primary,
and one that lies would get our password. Its replies are read here, too: redis-py fails at odd ones in ways of its own.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from redis import exceptions
from redis.asyncio import Redis
from redis.asyncio.sentinel import Sentinel

from .faults import fault_of, text_of
from .sentinel_answers import Primary, believed, is_settled, named_apart, primary_in, services_in
from .sentinel_errors import (
    NoPrimaryError,
    NotASentinelError,
    SentinelError,
    SentinelLoginError,
    SentinelPasswordFileError,
    SentinelsAwayError,
    SentinelsDisagreeError,
    UnknownServiceError,
)
from .urls import Address

ANSWER_S = 2.0
"""The longest time, in seconds, that one Sentinel is waited for; once more than half have answered, none is."""


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
        found = believed(primaries, len(self._named))
        if found is None:
            raise SentinelsDisagreeError(service, f"the Sentinels do not agree: {named_apart(primaries)}")
        if found.is_down:
            problem = f"the Sentinels say that the primary of {service!r}, {found}, is down, and promoted no replica"
            raise NoPrimaryError(service, problem)
        return found

    async def all_answers(self, service: str) -> list[Primary | SentinelError]:
        """What each of them says, in the order of the URL."""
        return await asyncio.gather(*(_asked(name, client, service) for name, client in self._named))

    async def next_answer(self, service: str) -> Primary | None:
        """What one Sentinel says, each in turn; None if it says nothing."""
        self._turn = (self._turn + 1) % len(self._named)
        told = await _asked(*self._named[self._turn], service)
        return told if isinstance(told, Primary) else None


async def _most_of(asked: set[asyncio.Task[Primary | SentinelError]]) -> list[Primary | SentinelError]:
    """What was told until more than half have said the same of the primary, or all have answered."""
    told: list[Primary | SentinelError] = []
    waiting = asked
    try:
        while waiting and not is_settled([each for each in told if isinstance(each, Primary)], len(asked)):
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            told += [task.result() for task in done]
    finally:
        for late in waiting:
            late.cancel()
    return told


async def _asked(name: str, client: Any, service: str) -> Primary | SentinelError:
    """What one Sentinel tells, as a task of its own. None of its questions waits for longer than `ANSWER_S`."""
    try:
        return await _answer(name, client, service)
    except Exception as error:  # noqa: BLE001 - a task's rim: what bytes do to redis-py's reader is not known
        return NotASentinelError(service, f"{name}: it answers as no Sentinel does ({type(error).__name__})")


async def _answer(name: str, client: Any, service: str) -> Primary | SentinelError:
    try:
        async with asyncio.timeout(ANSWER_S):
            # In two words redis-py returns the reply as it came.
            return primary_in(await client.execute_command("SENTINEL", "MASTER", service), name)
    except TimeoutError:
        return SentinelsAwayError(service, f"{name}: no answer within {ANSWER_S:g} s")
    except exceptions.RedisError as error:
        return await _problem(name, client, service, error)


async def _problem(name: str, client: Any, service: str, error: exceptions.RedisError) -> SentinelError:
    text = text_of(error)
    if "No such master" in text:
        return UnknownServiceError(service, f"{name} watches no {service!r}{await _similar(client, service)}")
    if isinstance(error, exceptions.AuthenticationError | exceptions.NoPermissionError) or "NOAUTH" in text:
        has_file = "credential_provider" in client.connection_pool.connection_kwargs
        return (SentinelPasswordFileError if has_file else SentinelLoginError)(service, f"{name}: {text}")
    if isinstance(error, exceptions.InvalidResponse):
        return NotASentinelError(service, f"{name}: it answers as no Redis does ({text})")
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
            names = services_in(await client.execute_command("SENTINEL", "MASTERS"))
    except (exceptions.RedisError, TimeoutError, TypeError, ValueError):  # redis-py's reader raises the last two
        return ""
    near = difflib.get_close_matches(service, names, 3, 0) if names else []
    return f", but {', '.join(repr(name)[:60] for name in near)}" if near else ", and nothing else"


def _worst(service: str, told: Sequence[SentinelError]) -> SentinelError:
    """One error for all: what a Sentinel answered says more than that another was silent."""
    kinds = (UnknownServiceError, SentinelPasswordFileError, SentinelLoginError, NotASentinelError, SentinelsAwayError)
    kind = next(kind for kind in kinds if any(isinstance(each, kind) for each in told))
    said = "; ".join(each.problem for each in told if isinstance(each, kind))
    found = kind(service, f"no Sentinel answers ({said})" if kind is SentinelsAwayError else said)
    found.__cause__ = next((each.__cause__ for each in told if isinstance(each, kind)), None)
    return found
