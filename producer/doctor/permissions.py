"""Which commands of workers and producers Redis would refuse to this user. None of them is run for real."""

from __future__ import annotations

from redis import exceptions
from redis.asyncio import Redis

from rollstream.schemas import Keys
from rollstream.schemas.entry_id import BEFORE_ALL
from rollstream.schemas.keys import GROUP
from rollstream.schemas.ledger import LedgerField
from rollstream.schemas.pause_reason import PAUSED_FIELD
from rollstream.transport.redis.faults import fault_of
from rollstream.transport.redis.rights import is_denied, refused

_BATCH = "doctor"
_NO_ID = str(BEFORE_ALL)


def commands(keys: Keys) -> dict[str, tuple[str | int, ...]]:
    """Every command that workers, producers and the Lua scripts use, with arguments on the keys that they use."""
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
        "HDEL": (control, PAUSED_FIELD),
        "HEXISTS": (ledger, LedgerField.CANCELLED),
        "HGET": (ledger, LedgerField.DESCRIPTION),
        "HGETALL": (worker,),
        "HINCRBY": (ledger, LedgerField.DONE, 0),
        "HMGET": (ledger, LedgerField.DONE, LedgerField.GROUPS),
        "HSCAN": (ledger, 0),
        "HSET": (ledger, "field", "value"),
        "HSETNX": (ledger, "field", "value"),
        "INFO": (),
        "MEMORY USAGE": (jobs,),
        "PING": (),
        "SET": (adapter, "", "NX"),
        "STRLEN": (adapter,),
        "TIME": (),
        "TTL": (adapter,),
        "UNLINK": (worker,),
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
        "ZADD": (keys.workers(), 0, _BATCH),
        "ZCARD": (keys.batches(0),),
        "ZRANGE": (keys.workers(), 0, -1),
        "ZREM": (keys.workers(), _BATCH),
        "ZREMRANGEBYSCORE": (keys.workers(), 0, 0),
        "ZREVRANGE": (keys.workers(), 0, -1),
        "ZSCORE": (keys.workers(), _BATCH),
    }


async def refused_commands(redis: Redis, keys: Keys) -> dict[str, str]:
    """Redis' refusal by command; in a cluster, the refusal of any node."""
    return await refused(redis, commands(keys), _is_refusal)


def _is_refusal(reply: object) -> bool:
    """Whether the user lacks the right, the server lacks the command, or it refuses all writes just now."""
    return is_denied(reply) or (isinstance(reply, exceptions.RedisError) and fault_of(reply).passes)
