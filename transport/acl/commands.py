"""Every command that anybody sends, and that a script runs: what it does to its keys, and how it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Flag
from types import MappingProxyType


class Access(Flag):
    """What a command does to its keys, as Redis 7 tells it: `NONE` for one that only asks whether or how large."""

    NONE = 0
    READ = 1
    WRITE = 2
    BOTH = READ | WRITE


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One command. `words` follow its name; `KEY` stands for the key, and for nothing where it has none."""

    access: Access
    words: str


def _of(access: Access, words: str) -> Command:
    return Command(access=access, words=words)


N, R, W, RW = Access.NONE, Access.READ, Access.WRITE, Access.BOTH

COMMANDS: Mapping[str, Command] = MappingProxyType({
    "ASKING": _of(N, ""),
    "CLIENT SETNAME": _of(N, "rights"),
    "CLUSTER SLOTS": _of(N, ""),
    "DEL": _of(W, "KEY"),
    "EVAL": _of(RW, "return(1) 1 KEY"),
    "EVALSHA": _of(RW, "0 1 KEY"),
    "EXEC": _of(N, ""),
    "EXISTS": _of(N, "KEY"),
    "EXPIRE": _of(W, "KEY 1"),
    "GET": _of(R, "KEY"),
    "GETEX": _of(RW, "KEY EX 1"),
    "GETRANGE": _of(R, "KEY 0 0"),
    "HDEL": _of(W, "KEY field"),
    "HELLO": _of(N, "2"),
    "HEXISTS": _of(N, "KEY field"),
    "HGET": _of(R, "KEY field"),
    "HGETALL": _of(R, "KEY"),
    "HINCRBY": _of(RW, "KEY field 0"),
    "HLEN": _of(N, "KEY"),
    "HMGET": _of(R, "KEY field"),
    "HSCAN": _of(R, "KEY 0"),
    "HSET": _of(W, "KEY field value"),
    "HSETNX": _of(W, "KEY field value"),
    "HSTRLEN": _of(N, "KEY field"),
    "INFO": _of(N, ""),
    "MEMORY USAGE": _of(N, "KEY"),
    "MULTI": _of(N, ""),
    "PERSIST": _of(W, "KEY"),
    "PING": _of(N, ""),
    "SELECT": _of(N, "0"),
    "SET": _of(W, "KEY value"),
    "STRLEN": _of(N, "KEY"),
    "TIME": _of(N, ""),
    "TTL": _of(R, "KEY"),
    "TYPE": _of(N, "KEY"),
    "UNLINK": _of(W, "KEY"),
    "WAIT": _of(N, "0 0"),
    "XACK": _of(W, "KEY group 0-0"),
    "XADD": _of(W, "KEY * field value"),
    "XAUTOCLAIM": _of(W, "KEY group consumer 0 0-0"),
    "XCLAIM": _of(W, "KEY group consumer 0 0-0"),
    "XDEL": _of(W, "KEY 0-0"),
    "XGROUP CREATE": _of(W, "KEY group 0"),
    "XGROUP DELCONSUMER": _of(W, "KEY group consumer"),
    "XINFO CONSUMERS": _of(R, "KEY group"),
    "XINFO GROUPS": _of(R, "KEY"),
    "XLEN": _of(N, "KEY"),
    "XPENDING": _of(R, "KEY group"),
    "XRANGE": _of(R, "KEY - +"),
    "XREAD": _of(R, "STREAMS KEY 0-0"),
    "XREADGROUP": _of(R, "GROUP group consumer STREAMS KEY >"),
    "XREVRANGE": _of(R, "KEY + -"),
    "XTRIM": _of(W, "KEY MINID 0-0"),
    "ZADD": _of(W, "KEY 0 member"),
    "ZCARD": _of(N, "KEY"),
    "ZRANGE": _of(R, "KEY 0 -1"),
    "ZREM": _of(W, "KEY member"),
    "ZREMRANGEBYSCORE": _of(W, "KEY 0 0"),
    "ZREVRANGE": _of(R, "KEY 0 -1"),
    "ZSCORE": _of(R, "KEY member"),
})  # fmt: skip

SCRIPTED = ("EVAL", "EVALSHA")
"""What runs a script. Redis wants both reading and writing for all keys of one, and checks each command in it too."""

NOT_GIVEN: Mapping[str, str] = MappingProxyType({
    "CONFIG GET": "it tells passwords too; without it Redis' limits on sizes and its appendfsync are not known",
})  # fmt: skip
"""What is asked for, is refused to every role, and is done without."""


def words(name: str, key: str = "") -> tuple[str, ...]:
    """The command in full, for a server that only queues it and never runs it."""
    return tuple(key if word == "KEY" else word for word in COMMANDS[name].words.split())


def rule(name: str) -> str:
    """How `ACL SETUSER` names the command, such as `xinfo|groups`."""
    return name.lower().replace(" ", "|")
