"""The routing of completions out of Redis: chunk by chunk, and checked against the digests that their answer names."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from rollstream.schemas import Keys
from rollstream.schemas.wire.routing import (
    CHUNK_BYTES,
    RoutedExperts,
    RoutingArray,
    chunks_of,
    routing_field,
    why_not_chosen,
)

from ..queue_errors import RoutingError
from ..redis_io.connection import Connection

_IN_PLACE = 2**20
"""Bytes that are checked at once; more would keep the event loop from its work."""


async def read_routing(
    connection: Connection, keys: Keys, batch_id: str, group: int, told: RoutedExperts, places: Sequence[int]
) -> list[RoutingArray]:
    """The (P + L - 1, layers, k) of each completion that `told` names; `places`: which of its group's it is.

    Raises `RoutingError` where it is gone or is not what the answer names.
    """
    one = _Told(batch_id, group, told, places)
    found = [bytearray(size) for size in told.sizes]
    for some in _reads(told):
        fields = [routing_field(group, told.sha256[row], chunk) for row, chunk in some]
        chunks = await _chunks(connection, keys.routing(batch_id), fields)
        for (row, chunk), data in zip(some, chunks, strict=True):
            one.put(found[row], chunk, data)
    if told.nbytes <= _IN_PLACE:
        return one.checked(found)
    return await asyncio.to_thread(one.checked, found)


def _reads(told: RoutedExperts) -> Iterator[list[tuple[int, int]]]:
    """(completion, chunk) of all chunks in order, in reads of about the bytes of one chunk."""
    before, numbered = 0, list[tuple[int, tuple[int, int]]]()
    for row, size in enumerate(told.sizes):
        for chunk in range(chunks_of(size)):
            numbered.append((before // CHUNK_BYTES, (row, chunk)))
            before += min(CHUNK_BYTES, size - chunk * CHUNK_BYTES)
    for _, some in groupby(numbered, key=lambda one: one[0]):
        yield [place for _, place in some]


async def _chunks(connection: Connection, key: str, fields: Sequence[str]) -> Sequence[bytes | None]:
    found: Any = await connection.call("read routing", lambda redis: redis.hmget(key, list(fields)))
    chunks: Sequence[bytes | None] = found
    return chunks


class _Told(NamedTuple):
    """What an answer says of some completions of a group. Raises `RoutingError` where Redis has something else."""

    batch_id: str
    group: int
    told: RoutedExperts
    places: Sequence[int]

    def put(self, into: bytearray, chunk: int, data: bytes | None) -> None:
        """Copy a chunk to its place."""
        if data is None:
            raise self._wrong("it is not in Redis any more: it expires with the results, or the key was removed")
        begin = chunk * CHUNK_BYTES
        expected = min(CHUNK_BYTES, len(into) - begin)
        if len(data) != expected:
            problem = f"chunk {chunk} of a completion has {len(data)} bytes, not {expected}: something else wrote there"
            raise self._wrong(problem)
        into[begin : begin + expected] = data

    def checked(self, found: Sequence[bytearray]) -> list[RoutingArray]:
        """The arrays of all completions."""
        return [self._of_completion(row, data) for row, data in enumerate(found)]

    def _of_completion(self, row: int, data: bytearray) -> RoutingArray:
        which = f"that of completion {self.places[row]}"
        if hashlib.sha256(data).hexdigest() != self.told.sha256[row]:
            raise self._wrong(f"{which} is not what the answer names: something else wrote there")
        shape = self.told.shape
        size = self.told.rows[row], shape.layers, shape.k
        routing: RoutingArray = np.frombuffer(data, shape.dtype).reshape(size)  # type: ignore[assignment] # either type
        if problem := why_not_chosen(routing, shape):
            raise self._wrong(f"{which} is no router's: {problem}")
        return routing

    def _wrong(self, problem: str) -> RoutingError:
        return RoutingError(self.batch_id, self.group, problem)
