"""The routing of one group out of Redis: chunk by chunk, and checked against the digests that its answer names."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from rollstream.schemas import GroupResult, Keys
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


async def read_routing(connection: Connection, keys: Keys, group: GroupResult) -> list[RoutingArray]:
    """The (P + L - 1, layers, k) of each completion, in the order of the group's completions.

    Raises `RoutingError` where it was not asked for, is gone, or is not what the answer names.
    """
    told = group.routing
    if told is None:
        raise RoutingError(group.batch_id, group.group, "it was not asked for: submit with routed_experts=True")
    found = [bytearray(size) for size in told.sizes]
    for some in _reads(told):
        fields = [routing_field(group.group, told.sha256[sample], chunk) for sample, chunk in some]
        chunks = await _chunks(connection, keys.routing(group.batch_id), fields)
        for (sample, chunk), data in zip(some, chunks, strict=True):
            _put(group, found[sample], chunk, data)
    if told.nbytes <= _IN_PLACE:
        return _checked(group, told, found)
    return await asyncio.to_thread(_checked, group, told, found)


def _reads(told: RoutedExperts) -> Iterator[list[tuple[int, int]]]:
    """(completion, chunk) of all chunks in order, in reads of about the bytes of one chunk."""
    before, numbered = 0, list[tuple[int, tuple[int, int]]]()
    for sample, size in enumerate(told.sizes):
        for chunk in range(chunks_of(size)):
            numbered.append((before // CHUNK_BYTES, (sample, chunk)))
            before += min(CHUNK_BYTES, size - chunk * CHUNK_BYTES)
    for _, some in groupby(numbered, key=lambda one: one[0]):
        yield [place for _, place in some]


async def _chunks(connection: Connection, key: str, fields: Sequence[str]) -> Sequence[bytes | None]:
    found: Any = await connection.call("read routing", lambda redis: redis.hmget(key, list(fields)))
    chunks: Sequence[bytes | None] = found
    return chunks


def _put(group: GroupResult, into: bytearray, chunk: int, data: bytes | None) -> None:
    if data is None:
        problem = "it is not in Redis any more: it expires with the results, or the key was removed"
        raise RoutingError(group.batch_id, group.group, problem)
    begin = chunk * CHUNK_BYTES
    expected = min(CHUNK_BYTES, len(into) - begin)
    if len(data) != expected:
        problem = f"chunk {chunk} of a completion has {len(data)} bytes, not {expected}: something else wrote there"
        raise RoutingError(group.batch_id, group.group, problem)
    into[begin : begin + expected] = data


def _checked(group: GroupResult, told: RoutedExperts, found: Sequence[bytearray]) -> list[RoutingArray]:
    return [_of_completion(group, told, sample, data) for sample, data in enumerate(found)]


def _of_completion(group: GroupResult, told: RoutedExperts, sample: int, data: bytearray) -> RoutingArray:
    if hashlib.sha256(data).hexdigest() != told.sha256[sample]:
        problem = f"that of completion {sample} is not what the answer names: something else wrote there"
        raise RoutingError(group.batch_id, group.group, problem)
    shape = told.shape
    size = told.rows[sample], shape.layers, shape.k
    routing: RoutingArray = np.frombuffer(data, shape.dtype).reshape(size)  # type: ignore[assignment] # either type
    if problem := why_not_chosen(routing, shape):
        raise RoutingError(group.batch_id, group.group, f"that of completion {sample} is no router's: {problem}")
    return routing
