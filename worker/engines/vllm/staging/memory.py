"""Memory that processes of one user share: a file without a name, so that nothing is left once all of them have ended.

A GPU's driver needs a while to pin memory. So the last one that was pinned is kept for the next checkpoint, which has
the same layout, since all of a policy fit one model. It is as large as the model.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass

from . import room

_SPARE = 256 * 2**20
"""Bytes of memory that stay free for everything else."""

Regions = tuple[tuple[int, int], ...]


class NoRoomError(Exception):
    """Raised when there is not so much memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Shared memory of some regions; `close` it or `keep` it."""

    descriptor: int
    regions: Regions
    number: int
    """No other memory of this process has it; descriptors are used again."""

    @property
    def path(self) -> str:
        """Where another process opens it, as long as it is not closed here."""
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"


_numbers = itertools.count(1)
_kept: list[Memory] = []
"""At most one."""


def take(regions: Regions) -> Memory:
    """Memory with just these regions: what was kept if it has them, else new. Raises `NoRoomError`, `OSError`."""
    while _kept:
        found = _kept.pop()
        if found.regions == regions:
            return found
        close(found)
    nbytes = sum(size for _, size in regions)
    if (free := room.available_bytes()) < nbytes + _SPARE:
        raise NoRoomError(f"it takes {nbytes} bytes of memory, and {_SPARE} are to spare, but {free} are free")
    descriptor = os.memfd_create("rollstream-weights")
    try:
        os.ftruncate(descriptor, nbytes)
    except BaseException:
        os.close(descriptor)
        raise
    return Memory(descriptor=descriptor, regions=regions, number=next(_numbers))


def keep(memory: Memory) -> None:
    """Have it for the next one who takes such memory."""
    free_kept()
    _kept.append(memory)


def free_kept() -> None:
    """Close what is kept."""
    while _kept:
        close(_kept.pop())


def close(memory: Memory) -> None:
    """Free it, once no other process has it open."""
    os.close(memory.descriptor)
