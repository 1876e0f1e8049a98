"""Everything that crosses Redis: messages, codec, tensors, keys, errors. No I/O, no torch, no vLLM."""

from schemas.codec import decode, encode
from schemas.completions import Completion
from schemas.envelope import Envelope
from schemas.errors import ConfigError, NameRefusedError, RollstreamError, SchemaError, WireError, WireVersionError
from schemas.generation_config import GenerationConfig
from schemas.keys import Keys
from schemas.messages import (
    Batch,
    DeadLetter,
    ErrorCode,
    GroupError,
    GroupResult,
    Job,
    Message,
    Origin,
    Sealed,
)
from schemas.policies import AdapterManifest, PolicyVersion
from schemas.tensors import Tensor

__all__ = [
    "AdapterManifest",
    "Batch",
    "Completion",
    "ConfigError",
    "DeadLetter",
    "Envelope",
    "ErrorCode",
    "GenerationConfig",
    "GroupError",
    "GroupResult",
    "Job",
    "Keys",
    "Message",
    "NameRefusedError",
    "Origin",
    "PolicyVersion",
    "RollstreamError",
    "SchemaError",
    "Sealed",
    "Tensor",
    "WireError",
    "WireVersionError",
    "decode",
    "encode",
]
