"""The scripts that read entries without their payloads, as calls for a pipeline."""

from __future__ import annotations

from rollstream.transport.redis.scripts import Call, load

PEEK = load(__package__, "peek.lua")
LETTERS = load(__package__, "letters.lua")


def peek(stream: str, start: str) -> Call:
    """See `peek.lua`: id and batch of the first entry from `start` on."""
    return PEEK([stream], [start])


def letters(dead_key: str, *, newest: str, oldest: str, count: int, nbytes: int, longest: int) -> Call:
    """See `letters.lua`: dead letters between two ids, the newest first."""
    return LETTERS([dead_key], [newest, oldest, count, nbytes, longest])
