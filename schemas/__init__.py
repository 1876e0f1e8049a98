"""Everything that crosses Redis: messages, codec, tensors, keys, errors. No I/O, no torch, no vLLM."""

if __name__ == "schemas":
    raise ImportError("schemas is a part of rollstream: from rollstream import GenerationConfig, ..., or schemas")

from .errors import (
    ConfigError,
    NameRefusedError,
    OptionError,
    RollstreamError,
    SchemaError,
    WireError,
    WireVersionError,
)
from .generation.generation_config import GenerationConfig
from .generation.generation_parts import Guided, Repetition
from .keys import Keys
from .wire.answers import ErrorCode, GroupError, GroupResult, Sealed
from .wire.codec import decode, encode
from .wire.completions import Completion
from .wire.envelope import Envelope
from .wire.images import ImageRef, ImageSpan
from .wire.messages import Batch, DeadLetter, Job, Message, Origin
from .wire.parts import Part
from .wire.policies import Activate, Activation, AdapterManifest, PolicyVersion
from .wire.proofs.golden import Golden, GoldenBatch
from .wire.proofs.probe import Probe, Tolerance
from .wire.routing import RoutedExperts
from .wire.scores import GroupScores, ScoreDescription, ScoreJob
from .wire.tensors import Tensor
from .wire.trainers.sessions import SessionTurn
from .wire.turns import Turn
from .wire.weights import WeightsManifest

__all__ = [
    "Activate",
    "Activation",
    "AdapterManifest",
    "Batch",
    "Completion",
    "ConfigError",
    "DeadLetter",
    "Envelope",
    "ErrorCode",
    "GenerationConfig",
    "Golden",
    "GoldenBatch",
    "GroupError",
    "GroupResult",
    "GroupScores",
    "Guided",
    "ImageRef",
    "ImageSpan",
    "Job",
    "Keys",
    "Message",
    "NameRefusedError",
    "OptionError",
    "Origin",
    "Part",
    "PolicyVersion",
    "Probe",
    "Repetition",
    "RollstreamError",
    "RoutedExperts",
    "SchemaError",
    "ScoreDescription",
    "ScoreJob",
    "Sealed",
    "SessionTurn",
    "Tensor",
    "Tolerance",
    "Turn",
    "WeightsManifest",
    "WireError",
    "WireVersionError",
    "decode",
    "encode",
]
