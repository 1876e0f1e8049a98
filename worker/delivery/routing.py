"""Keeps the routing of a group's completions beside its answer, before that is published."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from redis.asyncio import Redis
from redis.exceptions import RedisError

from rollstream.schemas import Envelope, ErrorCode, Keys, RoutedExperts
from rollstream.schemas.wire.fields import VersionSpan
from rollstream.schemas.wire.routing import (
    CHUNK_BYTES,
    MAX_ROUTING_BYTES,
    RoutingArray,
    RoutingShape,
    chunks_of,
    routing_field,
    rows_of,
    why_not_chosen,
)
from rollstream.transport.redis.limits import Oversize
from rollstream.transport.redis.scripts import Call

from ..errors import DataError, LeaseLostError, UnpublishableError
from ..redis_io.connections import retrying
from ..requests import Completion
from . import scripts
from .lease import Lease
from .sampled_here import after
from .scripts import RoutingOutcome

_CALL_CHUNKS = 256
"""The most fields of one call, during which Redis does nothing else; its bytes are those of one chunk at most."""
_OVERHEAD = 2**15
"""Most bytes of a call without its chunks."""
Chunk = tuple[str, memoryview]
"""A field of the hash, and what it gets."""
_IN_PLACE = 2**20
"""Bytes of which the digest is made at once; more would keep the event loop from its work."""


class RoutingStore:
    """Writes what routers chose, chunk by chunk. What a worker leaves there and never publishes expires."""

    def __init__(
        self,
        *,
        redis: Redis,
        keys: Keys,
        keep_s: int,
        check_proven: Callable[[Iterable[Sequence[VersionSpan]]], None],
        shape: Callable[[], RoutingShape | None],
    ) -> None:
        """`keep_s`: seconds that results stay. `check_proven`: as the publisher's. `shape`: asked when it is needed."""
        self._redis = redis
        self._keys = keys
        self._keep_s = keep_s
        self._check_proven = check_proven
        self._shape = shape

    @property
    def row_bytes(self) -> int:
        """Bytes of one token's routing; 0 for an engine that gives none."""
        shape = self._shape()
        return 0 if shape is None else shape.row_bytes

    def check_size(self, rows: int, completions: int) -> None:
        """Raises `DataError` for a group that may have more bytes than are kept: so many rows in each completion."""
        if (nbytes := rows * completions * self.row_bytes) > MAX_ROUTING_BYTES:
            problem = (
                f"{completions} completions of up to {rows} tokens, with the prompt, at {self.row_bytes} bytes each, "
                f"may have {nbytes} bytes of routing, and a group has at most {MAX_ROUTING_BYTES}: ask for fewer or "
                "shorter completions a prompt"
            )
            raise DataError(ErrorCode.TOO_LONG, "routed_experts", problem)

    async def keep(
        self, lease: Lease, job: Envelope, group: int, prompt_tokens: int, completions: Sequence[Completion]
    ) -> RoutedExperts:
        """Write the routing of these completions, again and again while Redis is away, and say where it is.

        That of a completion which was handed in before is there already. Raises `LeaseLostError`, `UnpublishableError`
        for a key of another type, `UnprovenError`, and `DataError` for what is no routing or too large for Redis.
        """
        shape = self._shape()
        if shape is None or any(one.routing is None and one.routed_experts is None for one in completions):
            raise DataError(ErrorCode.ENGINE_REFUSED, "routed_experts", "the engine gave no routing; see its log")
        self._check_proven(after(one.version_spans, 0) for one in completions if one.routing is None)
        told: list[tuple[int, str]] = []
        chunks: list[Chunk] = []
        for one in completions:
            if one.routing is not None:
                told.append((one.routing.rows[0], one.routing.sha256[0]))
            elif one.routed_experts is not None:
                rows = rows_of(prompt_tokens, len(one.token_ids))
                given = one.routed_experts, rows, shape
                is_small = rows * shape.row_bytes <= _IN_PLACE
                data, sha256 = _checked(*given) if is_small else await asyncio.to_thread(_checked, *given)
                told.append((len(one.routed_experts), sha256))
                chunks += _chunks(group, sha256, data)
        for some in _calls(chunks):
            if await self._written(lease, job, group, some) == "answered":
                break  # publishing it will tell that it is a duplicate
        return described(shape, told)

    async def _written(self, lease: Lease, job: Envelope, group: int, chunks: Sequence[Chunk]) -> RoutingOutcome:
        """Raises `LeaseLostError`, `UnpublishableError` and `DataError`."""
        words = [(field, bytes(data)) for field, data in chunks]
        call = scripts.routing_call(lease, self._keys, job, group, words, self._keep_s)
        try:
            outcome = await self._send(call, sum(len(data) for _, data in words))
        except RedisError as error:
            raise UnpublishableError(f"batch {job.batch_id}: {error}") from error
        if outcome == "fenced":
            raise LeaseLostError(f"{lease} was fenced")
        return outcome

    async def _send(self, call: Call, nbytes: int) -> RoutingOutcome:
        size = Oversize(argument=nbytes, command=nbytes + _OVERHEAD)

        async def send() -> RoutingOutcome:
            try:
                # No WAIT: replicas that have the answer, which comes later, have this too.
                return await scripts.routing(lambda one: one.to(self._redis), call)
            except RedisError as error:
                if problem := await size.why(error, self._redis):
                    told = f"a chunk of its routing is too large for Redis: {problem}"
                    raise DataError(ErrorCode.TOO_LONG, "routed_experts", told) from None
                raise

        return await retrying("keep routing", send)


def described(shape: RoutingShape, told: Sequence[tuple[int, str]]) -> RoutedExperts:
    """The message on completions with so many rows and such digests."""
    return RoutedExperts(
        dtype="uint8" if shape.dtype.itemsize == 1 else "uint16",
        layers=shape.layers,
        k=shape.k,
        experts=shape.experts,
        dense=shape.dense,
        rows=tuple(rows for rows, _ in told),
        sha256=tuple(sha256 for _, sha256 in told),
    )


def _checked(routing: RoutingArray, rows: int, shape: RoutingShape) -> tuple[memoryview, str]:
    """Its bytes and their digest. Raises `DataError` for what no router chose: such a sample must not be trained on."""
    if routing.shape != (expected := (rows, shape.layers, shape.k)):
        problem = f"of shape {routing.shape}, not {expected}"
    else:
        problem = why_not_chosen(routing, shape)
    if problem:
        told = f"the engine gave routing that is no router's ({problem}); start the worker without --routed-experts"
        raise DataError(ErrorCode.ENGINE_REFUSED, "routed_experts", told)
    data = routing.astype(shape.dtype, order="C", copy=False).tobytes()
    return memoryview(data), hashlib.sha256(data).hexdigest()


def _chunks(group: int, sha256: str, data: memoryview) -> Iterator[Chunk]:
    for chunk in range(chunks_of(len(data))):
        yield routing_field(group, sha256, chunk), data[chunk * CHUNK_BYTES : (chunk + 1) * CHUNK_BYTES]


def _calls(chunks: Iterable[Chunk]) -> Iterator[list[Chunk]]:
    """The chunks in order, in slices of bounded count and bytes."""
    some: list[Chunk] = []
    nbytes = 0
    for chunk in chunks:
        if some and (len(some) == _CALL_CHUNKS or nbytes + len(chunk[1]) > CHUNK_BYTES):
            yield some
            some, nbytes = [], 0
        some.append(chunk)
        nbytes += len(chunk[1])
    if some:
        yield some
