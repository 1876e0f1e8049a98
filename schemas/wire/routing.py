"""The experts that a mixture's layers chose, token by token. Their bytes lie beside the result, in chunks of a hash.

A completion of L tokens after a prompt of P has P + L - 1 rows: the row at the place of a token is that of the forward
pass that computed it, and the last token was never computed. Row P - 1 + j belongs to the pass that sampled token j.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from .fields import BatchId, Digest, Index

CHUNK_BYTES = 8 * 2**20
"""The most bytes of one field of the hash; the last chunk of a completion has the rest."""
MAX_ROUTING_BYTES = 2**30
"""The most bytes of all completions of a group."""

_DIGITS = 16
"""Digits of a completion's digest in its fields' names: two deliveries of one group never mix their chunks."""

RoutingArray = NDArray[np.uint8] | NDArray[np.uint16]
"""(P + L - 1, layers, k)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingShape:
    """What a row of routing holds. The same for all tokens of a model."""

    layers: int
    """All layers of the model, also those without experts."""
    k: int
    """How many experts each token goes to."""
    experts: int
    """How many a layer has; ids are below this."""
    dense: tuple[int, ...] = ()
    """Layers without experts, whose rows are zeros."""

    @property
    def dtype(self) -> np.dtype[np.uint8] | np.dtype[np.uint16]:
        """One byte for an id where 256 experts are enough, else two, little-endian."""
        return np.dtype("u1") if self.experts <= 256 else np.dtype("<u2")

    @property
    def row_bytes(self) -> int:
        """Bytes of one token."""
        return self.layers * self.k * self.dtype.itemsize


class RoutedExperts(BaseModel):
    """Where the routing of a group's n completions lies, and what it looks like. `handle.routed_experts` reads it."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", hide_input_in_errors=True)

    dtype: Literal["uint8", "uint16"]
    layers: int = Field(ge=1, le=4096)
    k: int = Field(ge=1, le=256)
    experts: int = Field(ge=1, le=2**16)
    """How many a layer has; ids are below this."""
    dense: tuple[Index, ...] = ()
    """Layers without experts, in order: their rows are zeros, and mean nothing."""
    rows: tuple[Index, ...]
    """(n,): rows of each completion, P + L - 1."""
    sha256: tuple[Digest, ...]
    """(n,): the digest of each completion's bytes."""

    @property
    def shape(self) -> RoutingShape:
        """What a row holds."""
        return RoutingShape(layers=self.layers, k=self.k, experts=self.experts, dense=self.dense)

    @property
    def sizes(self) -> tuple[int, ...]:
        """(n,): bytes of each completion."""
        return tuple(rows * self.shape.row_bytes for rows in self.rows)

    @property
    def nbytes(self) -> int:
        """Bytes of all completions together."""
        return sum(self.sizes)

    def alone(self, completion: int) -> RoutedExperts:
        """What this says about one completion, without the others."""
        of_it = {"rows": (self.rows[completion],), "sha256": (self.sha256[completion],)}
        return self.model_copy(update=of_it)

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        if self.k > self.experts:
            raise ValueError(f"k={self.k} of {self.experts} experts")
        if self.dtype != ("uint8" if self.experts <= 256 else "uint16"):
            raise ValueError(f"ids of {self.experts} experts are no {self.dtype}")
        if list(self.dense) != sorted(set(self.dense)) or max(self.dense, default=-1) >= self.layers:
            raise ValueError(f"dense names layers beyond {self.layers}, or one twice, or not in order")
        if len(self.rows) != len(self.sha256):
            raise ValueError("rows and sha256 must have as many items")
        if self.nbytes > MAX_ROUTING_BYTES:
            raise ValueError(f"{self.nbytes} bytes, and a group has at most {MAX_ROUTING_BYTES}")
        return self


class RowRouting(BaseModel):
    """Where the routing of one row of a `RolloutBatch` lies; `client.routed_experts` reads it."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", hide_input_in_errors=True)

    batch_id: BatchId
    """The batch that was submitted."""
    group: Index
    """The number of the row's prompt in that batch."""
    completion: Index
    """The row's place among the completions of its group's answer, which with `first_k` is no number of a sample."""
    experts: RoutedExperts
    """Those of this completion alone."""

    @model_validator(mode="after")
    def _is_of_one(self) -> Self:
        if len(self.experts.rows) != 1:
            raise ValueError(f"experts: of {len(self.experts.rows)} completions, and a row has one")
        return self


def rows_of(prompt_tokens: int, tokens: int) -> int:
    """How many rows a completion of so many tokens has."""
    return prompt_tokens + tokens - 1 if tokens else 0


def chunks_of(nbytes: int) -> int:
    """In how many chunks so many bytes lie."""
    return -(-nbytes // CHUNK_BYTES)


def routing_field(group: int, sha256: str, chunk: int) -> str:
    """The hash's field of one chunk of the completion with this digest."""
    return f"{group}:{sha256[:_DIGITS]}:{chunk}"


def routing_fields(group: int, sha256: str, nbytes: int) -> list[str]:
    """The fields of all chunks of a completion, in order."""
    return [routing_field(group, sha256, chunk) for chunk in range(chunks_of(nbytes))]


def why_not_chosen(routing: RoutingArray, shape: RoutingShape) -> str:
    """Why (rows, layers, k) cannot be what routers chose: an id beyond the experts, or one expert twice; else empty."""
    if not routing.size:
        return ""
    if int(routing.max()) >= shape.experts:
        return f"expert {int(routing.max())} of {shape.experts}"
    mixed = routing if not shape.dense else np.delete(routing, shape.dense, axis=1)
    # A token goes to k different experts: rows that nobody filled have the same one k times.
    # (Sorting takes ten times as long.)
    for one, other in combinations(range(shape.k), 2):
        if (twice := mixed[..., one] == mixed[..., other]).any():
            row, layer = np.argwhere(twice)[0].tolist()
            return f"row {row} names expert {int(mixed[row, layer, one])} twice in a layer"
    return ""


def check_rows(told: RoutedExperts, prompt_tokens: int, lengths: Sequence[int]) -> None:
    """Raises `ValueError` unless each completion has its rows."""
    expected = tuple(rows_of(prompt_tokens, length) for length in lengths)
    if told.rows != expected:
        raise ValueError(f"routing has {told.rows} rows where the completions have {expected}")
