"""Which commands of workers and producers Redis would refuse to this user, asked for without running one.

They are queued in a transaction that never runs: Redis checks a right when it queues a command.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from redis import exceptions
from redis.asyncio import Redis

from schemas import Keys
from schemas.cluster import nodes_of
from schemas.cluster.faults import fault_of
from schemas.keys import GROUP

_BATCH = "doctor"
_NO_ID = "0-0"


def commands(keys: Keys) -> dict[str, tuple[str | int, ...]]:
    """Arguments by command: all that the Lua scripts call and that workers and producers send, on their keys."""
    jobs, dead, control = keys.jobs(0), keys.dead(0), keys.control()
    ledger, results, worker = keys.ledger(_BATCH), keys.results(_BATCH), keys.worker(_BATCH)
    versions, adapter = keys.versions(), keys.adapter("doctor@0")
    return {
        "DEL": (worker,),
        "EVAL": ("return 1", 0),
        "EVALSHA": ("0" * 40, 0),
        "EXISTS": (worker,),
        "EXPIRE": (results, 1),
        "GET": (adapter,),
        "GETEX": (adapter,),
        "GETRANGE": (adapter, 0, 0),
        "HDEL": (control, "paused"),
        "HEXISTS": (ledger, "cancelled"),
        "HGET": (ledger, "batch"),
        "HGETALL": (worker,),
        "HINCRBY": (ledger, "done", 0),
        "HMGET": (ledger, "done", "groups"),
        "HSCAN": (ledger, 0),
        "HSET": (ledger, "field", "value"),
        "HSETNX": (ledger, "field", "value"),
        "INFO": (),
        "MEMORY USAGE": (jobs,),
        "PING": (),
        "SCAN": (0,),
        "SCRIPT LOAD": ("return 1",),
        "SET": (adapter, "", "NX"),
        "STRLEN": (adapter,),
        "TIME": (),
        "TTL": (adapter,),
        "XACK": (jobs, GROUP, _NO_ID),
        "XADD": (results, "*", "field", "value"),
        "XAUTOCLAIM": (jobs, GROUP, _BATCH, 0, _NO_ID),
        "XCLAIM": (jobs, GROUP, _BATCH, 0, _NO_ID),
        "XDEL": (dead, _NO_ID),
        "XGROUP CREATE": (jobs, GROUP, 0, "MKSTREAM"),
        "XGROUP DELCONSUMER": (jobs, GROUP, _BATCH),
        "XINFO CONSUMERS": (jobs, GROUP),
        "XINFO GROUPS": (jobs,),
        "XLEN": (jobs,),
        "XPENDING": (jobs, GROUP, "-", "+", 1),
        "XRANGE": (dead, "-", "+"),
        "XREAD": ("STREAMS", results, _NO_ID),
        "XREADGROUP": ("GROUP", GROUP, _BATCH, "STREAMS", jobs, ">"),
        "XREVRANGE": (versions, "+", "-"),
        "XTRIM": (jobs, "MINID", _NO_ID),
    }


async def refused_commands(redis: Redis, keys: Keys) -> dict[str, str]:
    """Redis' words by command, those of any node of a cluster: a right is checked before who has the key."""
    refused: dict[str, str] = {}
    for node in (await nodes_of(redis)).values():
        refused |= await _refused_at(node, keys)
    return refused


async def _refused_at(redis: Redis, keys: Keys) -> dict[str, str]:
    """Without MULTI the others cannot be asked for; then it alone is named."""
    pool: Any = redis.connection_pool
    connection = await pool.get_connection()
    try:
        replies = await _answers(
            connection, {"EXEC": (), "MULTI": ()}
        )  # EXEC without a MULTI is an error, whatever else
        if not isinstance(replies["MULTI"], exceptions.RedisError):
            replies |= await _answers(connection, commands(keys))
    finally:
        await connection.disconnect()  # and with it goes the transaction
        await pool.release(connection)
    return {command: str(reply) for command, reply in replies.items() if _is_refusal(reply)}


async def _answers(connection: Any, calls: dict[str, tuple[str | int, ...]]) -> dict[str, object]:
    await connection.send_packed_command(connection.pack_commands(_words(calls)))
    return {command: await _reply(connection) for command in calls}


def _words(calls: dict[str, tuple[str | int, ...]]) -> Iterable[tuple[str | int, ...]]:
    return [(*command.split(), *args) for command, args in calls.items()]


async def _reply(connection: Any) -> object:
    try:
        return await connection.read_response()
    except exceptions.ResponseError as error:
        return error


def _is_refusal(reply: object) -> bool:
    """Of the right, of the command itself, or of any write just now; not that an EXEC has no MULTI."""
    if not isinstance(reply, exceptions.RedisError):
        return False
    denied = exceptions.NoPermissionError, exceptions.ExecAbortError  # the second: EXEC itself
    return isinstance(reply, denied) or "unknown command" in str(reply) or fault_of(reply).passes
