"""Which commands Redis would refuse to this user. None of them is run.

The commands are queued in a transaction that never runs, since Redis checks rights when it queues a command.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from redis import exceptions
from redis.asyncio import Redis

from ..redis.cluster import nodes_of
from .table import Right

Words = Sequence[str]
"""A whole command."""
ASKED_FIRST = (Right(command="EXEC", kind=""), Right(command="MULTI", kind=""))
"""Without the second nothing else can be asked. EXEC without MULTI is an error, which says whether it is allowed."""


def is_denied(reply: object) -> bool:
    """Whether this user may not run the command, or the server has no such command; not for an EXEC without a MULTI."""
    denied = exceptions.NoPermissionError, exceptions.ExecAbortError  # the second is for EXEC itself
    return isinstance(reply, denied) or (isinstance(reply, exceptions.RedisError) and "unknown command" in str(reply))


async def refused(
    redis: Redis, commands: Mapping[Right, Words], is_refusal: Callable[[object], bool]
) -> dict[Right, str]:
    """Redis' refusal by right; MULTI and EXEC are asked for too.

    In a cluster all nodes are asked; each checks rights before it looks at the key. Raises `RedisError`.
    """
    found: dict[Right, str] = {}
    for node in (await nodes_of(redis)).values():
        found |= await _refused_at(node, commands, is_refusal)
    return found


async def _refused_at(
    redis: Redis, commands: Mapping[Right, Words], is_refusal: Callable[[object], bool]
) -> dict[Right, str]:
    """The refusals of one node. Without the right to MULTI nothing else can be asked, so only MULTI is named."""
    pool: Any = redis.connection_pool
    connection = await pool.get_connection()
    replies: dict[Right, object] = {}
    try:
        replies |= await _answers(connection, {right: [right.command] for right in ASKED_FIRST})
        if not isinstance(replies[ASKED_FIRST[1]], exceptions.RedisError):
            replies |= await _answers(connection, commands)
    finally:
        await connection.disconnect()  # this drops the transaction
        await pool.release(connection)
    return {name: str(reply) for name, reply in replies.items() if is_refusal(reply)}


async def _answers(connection: Any, commands: Mapping[Right, Words]) -> dict[Right, object]:
    await connection.send_packed_command(connection.pack_commands(commands.values()))
    return {name: await _reply(connection) for name in commands}


async def _reply(connection: Any) -> object:
    try:
        return await connection.read_response()
    except exceptions.ResponseError as error:
        return error
