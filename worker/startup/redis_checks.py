"""Check that this Redis can serve a worker, before anything is loaded.

Faults that may pass are waited for, with a warning at each try: Redis away, loading or a replica, a name that does not
resolve yet, too many clients. Others are a `SettingsError`: password, rights, database, version, TLS, limits.
"""

from __future__ import annotations

import asyncio

import structlog
from redis import exceptions
from redis.asyncio import Redis

from rollstream.schemas import Keys
from rollstream.schemas.entry_id import BEFORE_ALL
from rollstream.schemas.keys import GROUP
from rollstream.schemas.ledger import LedgerField
from rollstream.schemas.pause_reason import PAUSED_FIELD
from rollstream.schemas.worker_report import DRAIN
from rollstream.transport.redis import is_split, nodes_of
from rollstream.transport.redis.rights import Words, refused
from rollstream.transport.redis.urls import CLUSTER_PREFIXES, RedisUrl

from ..config import WorkerSettings
from ..errors import SettingsError
from ..measure.redis_errors import FAILED
from .redis_hopeless import explained, why_hopeless

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0
_OLDEST = (6, 2)
_PROBE = "rights"
_NO_ID = str(BEFORE_ALL)

log = structlog.get_logger()


class _NotYetError(exceptions.RedisError):
    """Raised while Redis answers but cannot serve a worker yet."""


async def wait_for_redis(redis: Redis, settings: WorkerSettings) -> None:
    """Return once Redis, or each node of a cluster, can serve. Raises `SettingsError` if waiting cannot help."""
    place, pause = settings.access.place(), _FIRST_PAUSE_S
    while True:
        try:
            await _look(redis, settings, place)
        except exceptions.RedisError as error:
            if problem := await why_hopeless(error, settings.access):
                raise SettingsError(f"--redis {place}: {problem}") from None
            FAILED.add()
            why = explained(error)
            log.warning("redis cannot serve yet, trying again", error=why, redis=str(place), pause_s=pause)
        else:
            return
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


async def _look(redis: Redis, settings: WorkerSettings, place: RedisUrl) -> None:
    for name, node in (await nodes_of(redis)).items():
        shown = f"{place} ({name})" if name else str(place)
        _check(shown, await node.info(), in_cluster=is_split(redis))
    denied = await refused(redis, commands_of_a_worker(settings))
    if denied:
        raise SettingsError(f"--redis {place}: {_told(denied, settings)}")


def _check(shown: str, info: dict[str, object], *, in_cluster: bool) -> None:
    """Check one server. Raises `SettingsError`, `_NotYetError`."""
    version = str(info.get("redis_version", "0"))
    if tuple(int(part) for part in version.split(".")[:2] if part.isdecimal()) < _OLDEST:
        raise SettingsError(f"--redis {shown}: Redis {version} is too old, 6.2 or newer is needed")
    if info.get("redis_mode") == "sentinel":
        raise SettingsError(f"--redis {shown}: it is a Sentinel, which keeps no jobs: give the URL of the primary")
    if info.get("cluster_enabled") and not in_cluster:
        raise SettingsError(f"--redis {shown}: it is a node of a Redis Cluster: write {CLUSTER_PREFIXES}")
    eviction = str(info.get("maxmemory_policy", "noeviction"))
    if eviction != "noeviction":
        problem = f"maxmemory-policy is {eviction}: under pressure Redis would delete jobs; set it to noeviction"
        raise SettingsError(f"--redis {shown}: {problem}")
    if info.get("role") == "slave":
        raise _NotYetError("it is a replica, which takes no writes: give the URL of the primary, or promote it")
    if not info.get("aof_enabled"):
        log.warning("redis has no append-only file: what it holds is gone when it crashes", redis=shown)
    log.info("redis connected", redis=shown, version=version)


def commands_of_a_worker(settings: WorkerSettings) -> dict[str, Words]:
    """All commands that a worker and its scripts send, with keys of its policy."""
    keys = Keys(settings.policy, partitions=settings.partitions)
    jobs, dead, worker = keys.jobs(0), keys.dead(0), keys.worker(settings.consumer)
    ledger, results, adapter = keys.ledger(_PROBE), keys.results(_PROBE), keys.adapter(f"{_PROBE}@0")
    found: dict[str, Words] = {
        "EVAL": ("return 1", 0),
        "EVALSHA": ("0" * 40, 0),
        "INFO": (),
        "TIME": (),
        "DEL": (worker,),
        "EXISTS": (ledger,),
        "EXPIRE": (results, 1),
        "HDEL": (worker, DRAIN),
        "HEXISTS": (ledger, LedgerField.CANCELLED),
        "HGET": (keys.control(), PAUSED_FIELD),
        "HGETALL": (worker,),
        "HINCRBY": (ledger, LedgerField.DONE, 0),
        "HMGET": (ledger, LedgerField.DONE),
        "HSET": (worker, "field", "value"),
        "HSETNX": (ledger, "field", "value"),
        "MEMORY USAGE": (jobs,),
        "XACK": (jobs, GROUP, _NO_ID),
        "XADD": (dead, "*", "field", "value"),
        "XAUTOCLAIM": (jobs, GROUP, _PROBE, 0, _NO_ID),
        "XCLAIM": (jobs, GROUP, _PROBE, 0, _NO_ID),
        "XGROUP CREATE": (jobs, GROUP, 0, "MKSTREAM"),
        "XGROUP DELCONSUMER": (jobs, GROUP, _PROBE),
        "XINFO CONSUMERS": (jobs, GROUP),
        "XINFO GROUPS": (jobs,),
        "XPENDING": (jobs, GROUP, "-", "+", 1),
        "XRANGE": (jobs, "-", "+"),
        "XREADGROUP": ("GROUP", GROUP, _PROBE, "STREAMS", jobs, ">"),
        "XREVRANGE": (keys.versions(), "+", "-"),
        "XTRIM": (jobs, "MINID", _NO_ID),
        "ZADD": (keys.workers(), 0, _PROBE),
        "ZRANGE": (keys.batches(0), 0, -1),
        "ZREM": (keys.batches(0), _PROBE),
        "ZREMRANGEBYSCORE": (keys.workers(), 0, 0),
    }
    if settings.serves_adapters:
        found |= {"GET": (adapter,), "GETRANGE": (adapter, 0, 0), "STRLEN": (adapter,)}
    return found


def _told(denied: dict[str, str], settings: WorkerSettings) -> str:
    """The refused commands with their keys, and which rights to give."""
    sent, policy = commands_of_a_worker(settings), settings.policy
    seen = (next((word for word in sent.get(name, ()) if str(word).startswith("rs:")), "") for name in denied)
    named = ", ".join(f"{name} {key}".strip() for name, key in zip(denied, seen, strict=True))
    words = next(iter(denied.values()))
    remedy = f"a worker needs these commands on the keys rs:{{{policy}}}:* and rs:{{{policy}:*}}:* (ACL SETUSER)"
    return f"Redis refuses {named}: {words}; {remedy}"
