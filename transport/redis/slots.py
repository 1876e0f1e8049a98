"""To which slot a command belongs. Pure: our commands have their keys at known positions, so no node is asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

Address = tuple[str, int]

_SCRIPTS = frozenset({"EVAL", "EVALSHA"})
_STREAMS = frozenset({"XREAD", "XREADGROUP"})
_KEYLESS = frozenset({"CONFIG GET", "CONFIG SET", "INFO", "PING", "TIME", "WAIT"})
_UNKNOWN = ("", "?")
"""What a node may say for a host that it does not know, which is mostly its own."""


def slot_of(command: Sequence[Any]) -> int | None:
    """The slot of the command's first key; None for a command without a key, which any node may answer.

    All keys of one of our commands share a slot; Redis refuses a command with keys of several.
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
    return None if name in _KEYLESS or len(command) == 1 else command[1]


def owners(reply: Any, asked: str) -> list[Address | None]:
    """The primary of each slot, from the reply to CLUSTER SLOTS; None for a slot that has none.

    `asked`: the host that answered. It replaces a host that the node does not know.
    """
    found: list[Address | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
    for first, last, (host, port, *_), *_replicas in reply:
        found[first : last + 1] = [(known((host or b"").decode(), asked), port)] * (last + 1 - first)
    return found


def known(host: str | None, asked: str) -> str:
    """The host that a node named, or, if it does not know that host, the node's own (`asked`)."""
    return asked if host is None or host in _UNKNOWN else host


def addresses(found: Sequence[Address | None]) -> Iterator[Address]:
    """Every node that has slots, in the order of their first slots."""
    return iter(dict.fromkeys(address for address in found if address is not None))


def _bytes(key: Any) -> bytes:
    return bytes(key) if isinstance(key, bytes | bytearray | memoryview) else str(key).encode()


def _text(word: Any) -> str:
    """A word of the command's syntax in capitals; empty for anything longer, such as a payload."""
    if isinstance(word, bytes):
        return word.decode("latin-1").upper() if len(word) <= 16 else ""
    return word.upper() if isinstance(word, str) and len(word) <= 16 else ""
