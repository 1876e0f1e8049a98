"""What a trainer says of a round, in which a version goes from its memory to the workers' (`schemas.hashes.rounds`)."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from ..keys import check_name
from .fields import Count, Index, Seconds
from .messages import Message
from .policies import Sha256
from .tensors import Tensor, expect

Backend = Literal["nccl", "gloo", "ipc"]
"""What carries the tensors: NCCL between GPUs, gloo between CPUs, shared memory (CUDA's for a GPU) on one machine."""
TensorDtype = Literal["float32", "bfloat16", "float16"]
ITEM_BYTES: dict[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}
SAFETENSORS_DTYPES: dict[str, str] = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}

MAX_TENSORS = 40_000
MAX_MEMBERS = 1024
MAX_RANKS = 4096

Epoch = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Consumer = Annotated[str, AfterValidator(lambda value: check_name("consumer", value))]


class Sent(BaseModel):
    """The tensors of a round, in the order in which they are broadcast."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", hide_input_in_errors=True)

    names: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=512)], ...], Field(min_length=1, max_length=MAX_TENSORS)
    ]
    """As Hugging Face calls them."""
    dtypes: tuple[TensorDtype, ...]
    dimensions: Tensor
    """int32 (names,): how many sizes each has."""
    sizes: Tensor
    """int64: the sizes of all, one after the other."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        expect("dimensions", self.dimensions, "int32", 1)
        expect("sizes", self.sizes, "int64", 1)
        dimensions, sizes = self.dimensions.numpy(), self.sizes.numpy()
        if not len(self.names) == len(self.dtypes) == len(dimensions) == len(set(self.names)):
            raise ValueError("names, each once, dtypes and dimensions do not fit")
        if dimensions.min() < 0 or dimensions.max() > 16 or int(dimensions.sum()) != len(sizes):
            raise ValueError("sizes do not fit dimensions")
        if len(sizes) and (sizes.min() < 1 or sizes.max() >= 2**40):
            raise ValueError("sizes are from 1 to 2**40")
        return self

    @cached_property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The sizes of each."""
        left = iter(self.sizes.numpy().tolist())
        return tuple(tuple(next(left) for _ in range(count)) for count in self.dimensions.numpy().tolist())

    @property
    def num_bytes(self) -> int:
        """The size of all tensors together."""
        each = zip(self.shapes, self.dtypes, strict=True)
        return sum(math.prod(shape) * ITEM_BYTES[dtype] for shape, dtype in each)


class Round(Message):
    """What an open round will bring. A worker joins it if this is the version that it is to load."""

    kind: Literal["round"] = "round"
    epoch: Epoch
    version: Annotated[Index, Field(ge=1)]
    sha256: Sha256
    """The digest of the version's announcement."""
    backend: Backend
    sent: Sent
    join_s: Seconds
    """How long it stays open at most."""
    timeout_s: Seconds
    """How long linking may take at most, and how long sending."""


class Place(BaseModel):
    """A member, and the first of its ranks; the trainer has rank 0."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", hide_input_in_errors=True)

    consumer: Consumer
    first_rank: Annotated[Count, Field(lt=MAX_RANKS)]
    ranks: Annotated[Count, Field(le=MAX_RANKS)]


class RoundPlan(Message):
    """Who is in a round, in the order of ranks, and where its members meet."""

    kind: Literal["round_plan"] = "round_plan"
    epoch: Epoch
    places: Annotated[tuple[Place, ...], Field(min_length=1, max_length=MAX_MEMBERS)]
    meeting: Annotated[bytes, Field(min_length=1, max_length=256)]
    """`host:port` of the trainer's store, in which all gather."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        rank = 1
        for place in self.places:
            if place.first_rank != rank:
                raise ValueError("the ranks of its members do not follow one another")
            rank += place.ranks
        if rank > MAX_RANKS:
            raise ValueError(f"more than {MAX_RANKS} ranks")
        return self

    @property
    def world_size(self) -> int:
        """How many processes are linked, the trainer's among them."""
        return self.places[-1].first_rank + self.places[-1].ranks

    def place_of(self, consumer: str) -> Place | None:
        """None if it is not in."""
        return next((place for place in self.places if place.consumer == consumer), None)
