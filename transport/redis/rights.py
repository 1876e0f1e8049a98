"""Which commands Redis would refuse to this user, asked for without running one.

They are queued in a transaction that never runs: Redis checks a right when it queues a command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from redis import exceptions
from redis.asyncio import Redis

from .cluster import nodes_of

Words = tuple[str | int, ...]
"""A command's arguments."""


def is_denied(reply: object) -> bool:
    """Whether this user may not run the command, or this server has none of that name; not an EXEC without a MULTI."""
    denied = exceptions.NoPermissionError, exceptions.ExecAbortError  # the second: EXEC itself
    return isinstance(reply, denied) or (isinstance(reply, exceptions.RedisError) and "unknown command" in str(reply))


async def refused(
    redis: Redis, commands: Mapping[str, Words], is_refusal: Callable[[object], bool] = is_denied
) -> dict[str, str]:
    """Redis' words by command, those of any node of a cluster: a right is checked before who has the key."""
    found: dict[str, str] = {}
    for node in (await nodes_of(redis)).values():
        found |= await _refused_at(node, commands, is_refusal)
    return found


async def _refused_at(
    redis: Redis, commands: Mapping[str, Words], is_refusal: Callable[[object], bool]
) -> dict[str, str]:
    """Without MULTI the others cannot be asked for; then it alone is named."""
    pool: Any = redis.connection_pool
    connection = await pool.get_connection()
    try:
        # EXEC without a MULTI is an error, whatever else
        replies = await _answers(connection, {"EXEC": (), "MULTI": ()})
        if not isinstance(replies["MULTI"], exceptions.RedisError):
            replies |= await _answers(connection, commands)
    finally:
        await connection.disconnect()  # and with it goes the transaction
        await pool.release(connection)
    return {command: str(reply) for command, reply in replies.items() if is_refusal(reply)}


async def _answers(connection: Any, calls: Mapping[str, Words]) -> dict[str, object]:
    await connection.send_packed_command(connection.pack_commands(_words(calls)))
    return {command: await _reply(connection) for command in calls}


def _words(calls: Mapping[str, Words]) -> Iterable[Words]:
    return [(*command.split(), *args) for command, args in calls.items()]


async def _reply(connection: Any) -> object:
    try:
        return await connection.read_response()
    except exceptions.ResponseError as error:
        return error
