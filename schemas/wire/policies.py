"""What a trainer publishes besides batches: policy versions and their activations on two streams, adapters as blobs."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from .fields import AdapterName, Index, Seconds, Shown
from .messages import Message
from .options import Options
from .proofs.probe import Probe
from .requires import Requires

MAX_CHUNKS = 2**16
"""Most chunks of an adapter: a reader asks for each."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


VersionSource = Literal["checkpoint", "adapter"]
"""How the weights of a policy version were published."""


Transport = Literal["folder", "store", "nccl"]
"""How weights reach the workers: a folder of a shared file system (an adapter: Redis), the weight store, or NCCL."""
When = Literal["at_once", "when_prepared", "by_hand"]


class Activation(Message):
    """An entry `<version>-0` of the activations stream: from then on workers serve that version."""

    kind: Literal["activation"] = "activation"
    version: Annotated[int, Field(ge=1, lt=2**31)]
    by: Annotated[Shown, Field(max_length=200)]
    """Who did it: a worker's name, or what an operator or a trainer calls itself."""
    at: float
    """Unix seconds."""
    sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    """That of the announcement which it activates: another one under the same number is of another stream. Empty where
    nothing can be compared, as in what older releases wrote."""

    def is_of(self, version: int, sha256: str) -> bool:
        """Whether it activates the version that was announced with this digest."""
        return self.version == version and self.sha256 in {"", sha256}


class Activate(Options):
    """When an announced version becomes the one to serve.

    `at_once`: with its announcement. `when_prepared`: once a share of the live workers has prepared it, or after the
    time-out. `by_hand`: when somebody activates it. Raises `OptionError`.
    """

    when: When = "at_once"
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """For `when_prepared`: which part of the live workers must have prepared it."""
    timeout_s: Seconds | None = None
    """For `when_prepared`: after so many seconds it is activated in any case; None: never."""


class PolicyVersion(Message):
    """An announcement on the versions stream, whose entry has the id `<version>-0`: Redis lets versions only grow."""

    kind: Literal["version"] = "version"
    version: Annotated[Index, Field(ge=1)]
    source: VersionSource
    location: Annotated[str, Field(min_length=1, max_length=200)]
    """A folder's name below the workers' `--checkpoint-dir`, an adapter's `name@version`, or a manifest's name in the
    weight store."""
    sha256: Sha256
    """Digest of the checkpoint's files (`worker.weights.checkpoint.digest`), of the adapter as in its manifest, or of
    the tensors (and an adapter's config) of a version that comes through the weight store."""
    published_at: float
    """Unix seconds."""
    requires: Requires = ()
    """What a worker must know to serve it; a worker that does not refuses it and serves its version on."""
    transport: Transport = "folder"
    base: Index | None = None
    """The version whose tensors a delta changes; None if it brings all tensors."""
    probe: Probe | None = None
    """What a worker must reproduce before anything sampled under this version leaves it."""
    activate: Activate = Activate()

    @property
    def needs(self) -> tuple[str, ...]:
        """The names that its `requires` must have, by the fields that it uses."""
        used = {
            "activate": self.activate.when != "at_once",
            "probe": self.probe is not None,
            self.transport: self.transport != "folder",
        }
        return tuple(sorted(name for name, is_used in used.items() if is_used))


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
