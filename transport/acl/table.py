"""The one table of rights: which commands each role sends on which kinds of keys, by what it does with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Literal

from rollstream.schemas.key_kinds import KeyKind as K

from .commands import SCRIPTED


class Role(StrEnum):
    """What a user of Redis is for."""

    PRODUCER = "producer"
    WORKER = "worker"
    OPERATOR = "operator"
    EXPORTER = "exporter"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Right:
    """One command on one kind of key; `kind` is empty for a command without keys."""

    command: str
    kind: K | Literal[""]


_Rights = frozenset[Right]


def _on(keys: Mapping[K, str], *, plain: str = "", scripts: Iterable[K] = ()) -> _Rights:
    """`keys`: commands by the kind of key, with a `|` before a subcommand; `scripts`: what scripts get as KEYS."""
    pairs = [(word, kind) for kind, names in keys.items() for word in names.split()]
    pairs += [(word, kind) for kind in scripts for word in SCRIPTED]
    return frozenset(
        [Right(command=word.replace("|", " "), kind=kind) for word, kind in pairs]
        + [Right(command=word.replace("|", " "), kind="") for word in plain.split()]
    )


_CONNECT = _on({}, plain="PING HELLO TIME MULTI EXEC SELECT CLIENT|SETNAME CLUSTER|SLOTS ASKING")
_WAIT_FOR_REPLICAS = _on({}, plain="WAIT")

_SUBMIT = _on(
    {K.JOBS: "XADD", K.LEDGER: "HGET HEXISTS HSET HSETNX HINCRBY PERSIST", K.BATCHES: "ZADD", K.TOTALS: "HINCRBY"},
    scripts=[K.JOBS, K.LEDGER, K.BATCHES, K.TOTALS],
)
_RESULTS = _on(
    {
        K.RESULTS: "XREAD",
        K.LEDGER: "HGET HMGET HSCAN",
        # why a wait is long, and whether a job was lost
        K.JOBS: "XINFO|GROUPS XINFO|CONSUMERS XPENDING XRANGE",
        K.CONTROL: "HEXISTS",
        K.VERSIONS: "XREVRANGE",
        K.WORKERS: "ZRANGE",
        K.WORKER: "TTL HMGET",
        K.POLICIES: "ZRANGE",
    },
    scripts=[K.JOBS, K.LEDGER],
)
_READ_ROUTING = _on({K.ROUTING: "HMGET"})
_DROP_PARTS = _on(
    {K.PARTS: "EXISTS HGET HSTRLEN HDEL", K.PART_BYTES: "HGET HDEL HINCRBY HLEN DEL"},
    scripts=[K.PARTS, K.PART_BYTES],
)
_FOLLOW_PARTS = _on({K.PARTS: "HMGET"})
_CANCEL = _DROP_PARTS | _on(
    {
        K.LEDGER: "HGET HMGET HEXISTS HSETNX HINCRBY EXPIRE",
        K.RESULTS: "XADD EXPIRE",
        K.TOTALS: "HINCRBY",
        K.ROUTING: "EXPIRE",
        K.PARTS: "UNLINK",
    },
    scripts=[K.LEDGER, K.RESULTS, K.TOTALS, K.ROUTING],
)
_FOLLOW_VERSIONS = _on(
    {K.VERSIONS: "XRANGE XREVRANGE", K.ACTIVATIONS: "XRANGE XREVRANGE", K.WORKERS: "ZRANGE", K.WORKER: "TTL HMGET"}
)
_ACTIVATE = _on(
    {K.VERSIONS: "XRANGE XREVRANGE", K.ACTIVATIONS: "XRANGE XREVRANGE XADD DEL"}, scripts=[K.VERSIONS, K.ACTIVATIONS]
)
_PUBLISH = _on({K.VERSIONS: "EXISTS XADD", K.ACTIVATIONS: "DEL"}, scripts=[K.VERSIONS, K.ACTIVATIONS])
_PUBLISH_ADAPTERS = _on({K.ADAPTER: "GET GETEX SET TTL EXPIRE", K.BLOB: "STRLEN SET EXPIRE"})
_KEEP_IMAGES = _on(
    {K.MEDIA_INDEX: "HGET HGETALL HSET HDEL EXISTS TTL EXPIRE", K.MEDIA: "STRLEN SET TTL EXPIRE EXISTS"},
    scripts=[K.MEDIA_INDEX, K.MEDIA],
)
_WRITE_WEIGHTS = _on(
    {
        K.WEIGHTS: "HGET HGETALL HSET HDEL EXISTS EXPIRE",
        K.WEIGHTS_ITEM: "SET STRLEN GETRANGE EXISTS EXPIRE UNLINK",
    },
    scripts=[K.WEIGHTS, K.WEIGHTS_ITEM],
)
_LEAD_ROUNDS = _on(
    {K.ROUND: "HMGET HGET HGETALL HEXISTS HSET DEL EXPIRE", K.ROUND_CALL: "SET"}, scripts=[K.ROUND, K.ROUND_CALL]
)

_RUNS = _on(
    {
        K.RUN: "HGET HMGET HGETALL HEXISTS HSET HSETNX HDEL HINCRBY EXPIRE",
        K.RUNS: "ZADD ZREMRANGEBYSCORE TTL EXPIRE",
        K.LEDGER: "HMGET HSET HDEL HEXISTS EXISTS TTL EXPIRE",
        K.RESULTS: "TTL EXPIRE",
        K.ROUTING: "TTL EXPIRE",
    },
    scripts=[K.RUN, K.RUNS, K.LEDGER, K.RESULTS, K.ROUTING],
)

_SESSIONS = _on(
    {
        K.SESSION: "HGET HMGET HEXISTS HSET HSETNX HDEL EXPIRE",
        K.SESSIONS: "ZADD ZREMRANGEBYSCORE TTL EXPIRE",
        K.LEDGER: "HGET HMGET HSET TTL EXPIRE",
        K.RESULTS: "XREAD TTL EXPIRE",
        K.ROUTING: "TTL EXPIRE",
    },
    scripts=[K.SESSION, K.SESSIONS, K.LEDGER, K.RESULTS, K.ROUTING],
)

_START = _on(
    {
        K.WORKER: "HMGET HSETNX HGET HDEL DEL EXPIRE",
        K.CONTROL: "HSETNX HGET",
        K.JOBS: "XGROUP|CREATE",
    },
    plain="INFO",
)
_INTAKE = _on(
    {
        K.JOBS: "XREADGROUP XRANGE XPENDING XAUTOCLAIM XCLAIM XACK XINFO|CONSUMERS XINFO|GROUPS XGROUP|DELCONSUMER "
        "XTRIM MEMORY|USAGE",
        K.HORIZONS: "HGETALL HSETNX HDEL EXPIRE",
        K.BATCHES: "ZRANGE ZREM",
        K.LEDGER: "EXISTS",
        K.PARTS: "EXISTS",
        K.PART_BYTES: "HSCAN HEXISTS HDEL HGETALL HSET HLEN",
    },
    scripts=[K.JOBS, K.HORIZONS, K.BATCHES, K.LEDGER, K.PARTS, K.PART_BYTES],
)
_FOLLOW_SESSIONS = _on({K.SESSION_WORKER: "GET SET", K.WORKER: "HMGET"})
_KEEP_PARTS = _DROP_PARTS | _on({K.PARTS: "HLEN HSET TTL EXPIRE", K.PART_BYTES: "TTL EXPIRE"})
_ANSWER = _on(
    {
        K.JOBS: "XPENDING XCLAIM XACK XRANGE",
        K.RESULTS: "XADD XRANGE EXPIRE",
        K.LEDGER: "HGET HMGET HEXISTS HSET HSETNX HINCRBY TTL EXPIRE EXISTS",
        K.TOTALS: "HINCRBY",
        K.DEAD: "XADD",
        K.ROUTING: "HSET TTL EXPIRE",
    },
    scripts=[K.JOBS, K.RESULTS, K.LEDGER, K.TOTALS, K.DEAD, K.ROUTING],
)
_REPORT = _on(
    {
        K.WORKER: "HSET HGET HMGET EXISTS EXPIRE DEL",
        K.WORKERS: "ZADD ZREM ZREMRANGEBYSCORE ZREVRANGE EXPIRE DEL",
        K.HISTORY: "HINCRBY EXPIRE",
        K.RATE: "HGET HSET HINCRBY EXPIRE",
        K.CONTROL: "HMGET",
        K.LEDGER: "HMGET",
        K.POLICIES: "ZADD ZREMRANGEBYSCORE EXPIRE",
    },
    scripts=[K.WORKER, K.WORKERS, K.HISTORY, K.RATE],
)
_SERVE_VERSIONS = _on(
    {K.VERSIONS: "XREVRANGE XRANGE", K.ACTIVATIONS: "XREVRANGE XRANGE XADD DEL", K.WEIGHTS_ITEM: "STRLEN GETRANGE"},
    scripts=[K.VERSIONS, K.ACTIVATIONS],
)
_TAKE_PART_IN_ROUNDS = _on({K.ROUND: "HMGET HGET HGETALL HEXISTS HSET", K.ROUND_CALL: "GET"}, scripts=[K.ROUND])
_FETCH_IMAGES = _on({K.MEDIA: "GETRANGE TTL EXPIRE"}, scripts=[K.MEDIA])
_FETCH_ADAPTERS = _on({K.ADAPTER: "GET EXPIRE", K.BLOB: "STRLEN GETRANGE EXPIRE"})

_WATCH = _on(
    {
        K.JOBS: "XLEN XINFO|GROUPS XINFO|CONSUMERS XPENDING XRANGE",
        K.TOTALS: "HMGET",
        K.DEAD: "XLEN XREVRANGE",
        K.BATCHES: "ZCARD ZREVRANGE",
        K.LEDGER: "HMGET",
        K.WORKERS: "ZREVRANGE ZSCORE ZRANGE",
        K.WORKER: "HMGET TTL",
        K.CONTROL: "HMGET",
        K.RATE: "HMGET",
        K.PART_BYTES: "HGET",
        K.HISTORY: "HSCAN",
        K.VERSIONS: "XREVRANGE",
        K.ACTIVATIONS: "XREVRANGE",
    },
    plain="INFO",
    scripts=[K.JOBS, K.DEAD],
)
_LOOK_AT_RUNS = _on(
    {
        K.RUN: "HGET HGETALL DEL",
        K.RUNS: "ZREVRANGE ZREM TYPE",
        K.LEDGER: "HDEL EXISTS TTL EXPIRE",
        K.RESULTS: "TTL EXPIRE",
        K.ROUTING: "TTL EXPIRE",
    },
    scripts=[K.RUN, K.RUNS, K.LEDGER, K.RESULTS, K.ROUTING],
)
_LOOK_AT_SESSIONS = _on({K.SESSION: "HMGET", K.SESSIONS: "ZREVRANGE", K.LEDGER: "HMGET"})
_LOOK_AT_WEIGHTS = _on({K.WEIGHTS_ITEM: "STRLEN GETRANGE"})
_LOOK_AT_BATCHES = _on(
    {K.LEDGER: "HSCAN HMGET", K.RESULTS: "XRANGE XLEN", K.DEAD: "XRANGE"}, scripts=[K.RESULTS, K.DEAD]
)
_STEER = _on(
    {
        K.CONTROL: "HSET HSETNX HGET HEXISTS HDEL",
        K.WORKERS: "ZRANGE",
        K.WORKER: "EXISTS TTL HSET HMGET",
    },
    scripts=[K.WORKER],
)
_REPLAY = _on({K.JOBS: "XRANGE XPENDING XINFO|GROUPS", K.DEAD: "XRANGE XDEL XLEN"}, scripts=[K.DEAD])
_DOCTOR = _on(
    {
        **dict.fromkeys(
            (K.JOBS, K.DEAD, K.CONTROL, K.RATE, K.TOTALS, K.WORKER, K.WORKERS, K.BATCHES, K.PART_BYTES), "TYPE"
        ),
        K.VERSIONS: "TYPE XRANGE",
        K.ACTIVATIONS: "TYPE",
        K.JOBS: "TYPE EXISTS",
        K.BATCHES: "TYPE ZREVRANGE",
        K.LEDGER: "EXISTS",
    },
    plain="INFO",
)

_ROLES: Mapping[Role, _Rights] = MappingProxyType({
    Role.PRODUCER: _CONNECT.union(
        _WAIT_FOR_REPLICAS, _SUBMIT, _RESULTS, _READ_ROUTING, _CANCEL, _FOLLOW_PARTS, _FOLLOW_VERSIONS, _ACTIVATE,
        _PUBLISH, _PUBLISH_ADAPTERS, _KEEP_IMAGES, _WRITE_WEIGHTS, _LEAD_ROUNDS, _RUNS, _SESSIONS,
    ),
    Role.WORKER: _CONNECT.union(
        _WAIT_FOR_REPLICAS, _START, _INTAKE, _ANSWER, _KEEP_PARTS, _REPORT, _SERVE_VERSIONS, _TAKE_PART_IN_ROUNDS,
        _FETCH_ADAPTERS, _FOLLOW_SESSIONS, _FETCH_IMAGES,
    ),
    Role.OPERATOR: _CONNECT.union(
        _WAIT_FOR_REPLICAS, _SUBMIT, _RESULTS, _CANCEL, _FOLLOW_VERSIONS, _ACTIVATE, _WATCH, _LOOK_AT_BATCHES,
        _LOOK_AT_RUNS, _LOOK_AT_SESSIONS, _LOOK_AT_WEIGHTS, _KEEP_IMAGES, _STEER, _REPLAY, _DOCTOR,
    ),
    Role.EXPORTER: _CONNECT.union(_WATCH),
})  # fmt: skip


def rights_of(role: Role) -> frozenset[Right]:
    """All rights of a role, and no others."""
    return _ROLES[role]
