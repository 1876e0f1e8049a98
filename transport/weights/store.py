"""What every weight store can do. Its items are chunks, named by their digest, and manifests, named by the version."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple, Protocol

from rollstream.schemas.errors import NameRefusedError

_CHUNK = re.compile(r"[0-9a-f]{64}")
_MANIFEST = re.compile(r"[1-9][0-9]{0,9}-[0-9a-f]{16}")


class Stored(NamedTuple):
    """One item of a store."""

    name: str
    num_bytes: int
    changed_at: float | None
    """Unix seconds by the store's clock; None if the store does not tell."""


class WeightStore(Protocol):
    """All calls raise `WeightStoreError`, and `NameRefusedError` for a name that no item has. They end in bounded time.

    An item is there whole or not at all, as far as the store can see to it; `read_chunk` and `read_manifest` verify.
    """

    @property
    def where(self) -> str:
        """The store for logs and errors, without secrets."""

    async def chunk_bytes(self) -> int:
        """How large the chunks should be that are written to it."""

    async def put(self, name: str, data: bytes) -> None:
        """Keep an item. An item of this name is replaced at once: a reader gets the one or the other."""

    async def get(self, name: str, most: int) -> bytes:
        """The item. One that is larger than `most` bytes is refused without reading it."""

    async def sizes(self, names: Collection[str]) -> dict[str, int]:
        """Bytes of those items that are there."""

    async def items(self) -> list[Stored]:
        """All items. What has no name of an item is left out."""

    async def delete(self, names: Iterable[str]) -> None:
        """Remove items; those that are gone already are no error."""

    async def renew(self, names: Iterable[str]) -> None:
        """Let the items stay, in a store whose items expire."""

    async def room(self) -> int | None:
        """How many bytes may still be written; None if the store has no limit of its own."""


def check_item(name: object) -> str:
    """`name`, if an item may have it. Raises `NameRefusedError`."""
    if isinstance(name, str) and (_CHUNK.fullmatch(name) or _MANIFEST.fullmatch(name)):
        return name
    raise NameRefusedError("item of the weight store", name, "64 hex digits, or a version, '-' and 16 hex digits")


def is_item(name: str) -> bool:
    """Whether it is a name of a chunk or a manifest."""
    return bool(_CHUNK.fullmatch(name) or _MANIFEST.fullmatch(name))


def is_chunk(name: str) -> bool:
    """Whether it is a chunk's name."""
    return _CHUNK.fullmatch(name) is not None
