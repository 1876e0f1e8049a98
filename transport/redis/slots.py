"""Which node a command goes to, decided without asking one: our commands name their keys in known places. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

Address = tuple[str, int]

_SCRIPTS = frozenset({"EVAL", "EVALSHA"})
_STREAMS = frozenset({"XREAD", "XREADGROUP"})
_KEYLESS = frozenset({"CONFIG GET", "CONFIG SET", "INFO", "PING", "TIME"})
_UNKNOWN = ("", "?")
"""What a node says, besides nothing, for the host of a node (itself, most often) that it does not know."""


def slot_of(command: Sequence[Any]) -> int | None:
    """The slot of the command's first key; None for a command without one, which any node may answer.

    All keys of a command of ours share a slot, and Redis refuses one whose do not. SCAN goes by the hash tag of its
    pattern: what it is to find is there and nowhere else.
    """
    key = _key(command)
    return None if key is None else key_slot(_bytes(key))


def _key(command: Sequence[Any]) -> Any:
    name = _text(command[0])
    if name in _SCRIPTS:
        return command[3] if int(command[2]) else None
    if name in _STREAMS:
        after = 4 if name == "XREADGROUP" else 1  # names of a group and a consumer, which may be anything
        return command[[_text(word) for word in command].index("STREAMS", after) + 1]
    if name == "SCAN":
        words = [_text(word) for word in command]
        return command[words.index("MATCH") + 1] if "MATCH" in words else None
    return None if name in _KEYLESS or len(command) == 1 else command[1]


def owners(reply: Any, asked: str) -> list[Address | None]:
    """The primary of each slot, by what CLUSTER SLOTS answered; None for a slot that has none.

    `asked`: the host that answered, which stands for one that is not known there.
    """
    found: list[Address | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
    for first, last, (host, port, *_), *_replicas in reply:
        found[first : last + 1] = [(known((host or b"").decode(), asked), port)] * (last + 1 - first)
    return found


def known(host: str | None, asked: str) -> str:
    """The host that a node named, or that of the node itself, which was `asked`, for one that it does not know."""
    return asked if host is None or host in _UNKNOWN else host


def addresses(found: Sequence[Address | None]) -> Iterator[Address]:
    """Every node that has slots, in the order of their first."""
    return iter(dict.fromkeys(address for address in found if address is not None))


def _bytes(key: Any) -> bytes:
    return bytes(key) if isinstance(key, bytes | bytearray | memoryview) else str(key).encode()


def _text(word: Any) -> str:
    """Of a word of the command's syntax; payloads are no such words and are not decoded."""
    if isinstance(word, bytes):
        return word.decode("latin-1").upper() if len(word) <= 16 else ""
    return word.upper() if isinstance(word, str) and len(word) <= 16 else ""
