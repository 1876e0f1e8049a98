"""Which commands Redis would refuse to this user. None of them is run.

The commands are queued in a transaction that never runs, since Redis checks rights when it queues a command.
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
    """Whether this user may not run the command, or the server has no such command; not for an EXEC without a MULTI."""
    denied = exceptions.NoPermissionError, exceptions.ExecAbortError  # the second is for EXEC itself
    return isinstance(reply, denied) or (isinstance(reply, exceptions.RedisError) and "unknown command" in str(reply))


async def refused(
    redis: Redis, commands: Mapping[str, Words], is_refusal: Callable[[object], bool] = is_denied
) -> dict[str, str]:
    """Redis' refusal by command. In a cluster all nodes are asked; each checks rights before it looks at the key."""
    found: dict[str, str] = {}
    for node in (await nodes_of(redis)).values():
        found |= await _refused_at(node, commands, is_refusal)
    return found


async def _refused_at(
    redis: Redis, commands: Mapping[str, Words], is_refusal: Callable[[object], bool]
) -> dict[str, str]:
    """The refusals of one node. Without the right to MULTI nothing else can be asked, so only MULTI is named."""
    pool: Any = redis.connection_pool
    connection = await pool.get_connection()
    try:
        # EXEC without a MULTI is always an error; which error tells whether EXEC is allowed
        replies = await _answers(connection, {"EXEC": (), "MULTI": ()})
        if not isinstance(replies["MULTI"], exceptions.RedisError):
            replies |= await _answers(connection, commands)
    finally:
        await connection.disconnect()  # this drops the transaction
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
