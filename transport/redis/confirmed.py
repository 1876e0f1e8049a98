"""Writes that count only once replicas have them: the script's call, and WAIT right behind it on the same connection.

WAIT counts the replicas that have what its own connection wrote. Redis 8 and Valkey believe a connection that wrote
nothing to be safe at once. So a script that is called here writes each time that its answer says that something is
there, also where it was there before; CONTRIBUTING.md has it among the rules for scripts.
"""

from __future__ import annotations

from typing import Any

from redis import exceptions
from redis.asyncio import Redis

from .scripts import Call, Word

WAIT_MS = 1000
"""The longest time that one call waits for replicas; then it fails, and its caller sends it again."""


class UnconfirmedError(exceptions.RedisError):
    """Raised when too few replicas have a write. It is in the primary; sending it again is safe, and asks again."""

    def __init__(self, replicas: int, wanted: int) -> None:
        super().__init__(f"{replicas} of {wanted} replicas have it after {WAIT_MS / 1000:g} s")
        self.replicas = replicas
        self.wanted = wanted

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.replicas, self.wanted), vars(self)


def wait_words(wait: int) -> tuple[Word, ...]:
    """The command that waits for `wait` replicas; it goes behind a write, into the same pipeline."""
    return "WAIT", wait, WAIT_MS


def too_few(replicas: int, wait: int) -> UnconfirmedError | None:
    """The error, if so many replicas are not enough."""
    return UnconfirmedError(replicas, wait) if replicas < wait else None


async def confirmed(redis: Redis, call: Call, wait: int, *, whole: bool = False) -> Any:
    """The script's reply, once `wait` replicas have what it wrote; 0: at once.

    `whole`: send the script itself, as `Call.whole_to` does. In a cluster a call whose slot has just moved counts as
    unconfirmed, since WAIT went to the node that had it before. Raises `RedisError`, `UnconfirmedError`.
    """
    if not wait:
        return await (call.whole_to(redis) if whole else call.to(redis))
    try:
        return await _together(redis, call.whole if whole else call.by_digest, wait)
    except exceptions.NoScriptError:
        return await _together(redis, call.whole, wait)


async def _together(redis: Redis, words: tuple[Word, ...], wait: int) -> Any:
    pipe: Any = redis.pipeline(transaction=False)  # redis-py does not type what queues a command
    pipe.execute_command(*words)
    pipe.execute_command(*wait_words(wait))
    reply, waited = await pipe.execute(raise_on_error=False)
    for found in (reply, waited):
        if isinstance(found, exceptions.RedisError):
            raise found
    if problem := too_few(waited, wait):
        raise problem
    return reply
