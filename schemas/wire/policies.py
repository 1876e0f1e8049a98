"""What a trainer publishes besides batches: policy versions on the versions stream, adapters as blobs beside it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from .fields import AdapterName, Index
from .messages import Message
from .requires import Requires

MAX_CHUNKS = 2**16
"""Most chunks of an adapter: a reader asks for each."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


VersionSource = Literal["checkpoint", "adapter"]
"""How the weights of a policy version were published."""


class PolicyVersion(Message):
    """An announcement on the versions stream, whose entry has the id `<version>-0`: Redis lets versions only grow."""

    kind: Literal["version"] = "version"
    version: Annotated[Index, Field(ge=1)]
    source: VersionSource
    location: Annotated[str, Field(min_length=1, max_length=200)]
    """A folder's name below the workers' `--checkpoint-dir`, or an adapter's `name@version`."""
    sha256: Sha256
    """Digest of the checkpoint's files (`worker.weights.checkpoint.digest`), or of the adapter as in its manifest."""
    published_at: float
    """Unix seconds."""
    requires: Requires = ()
    """What a worker must know to serve it; a worker that does not refuses it and serves its version on."""


class AdapterManifest(Message):
    """Describes an adapter in Redis. It is written once, after all chunks, so that its readers find every chunk."""

    kind: Literal["adapter"] = "adapter"
    name: AdapterName
    sha256: Sha256
    """Digest of `config` followed by the weights."""
    config: Annotated[bytes, Field(max_length=64 * 1024)]
    """`adapter_config.json`, byte for byte."""
    num_bytes: Annotated[int, Field(ge=1, lt=2**40)]
    """Size of the weights, a safetensors file."""
    chunk_bytes: Annotated[int, Field(ge=1, le=64 * 2**20)]
    """Size of every chunk but the last."""
    published_at: float
    """Unix seconds."""

    @model_validator(mode="after")
    def _check_chunks(self) -> Self:
        if self.chunks > MAX_CHUNKS:
            raise ValueError(f"{self.chunks} chunks, more than {MAX_CHUNKS}")
        return self

    @property
    def chunks(self) -> int:
        """How many `blob` keys hold the weights."""
        return -(-self.num_bytes // self.chunk_bytes)
