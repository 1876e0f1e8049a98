"""What a trainer imports. Imports neither vLLM nor torch; torch is loaded when tensors are asked for.

A name's module is loaded when the name is: `rollstream` starts without any, so that Ctrl-C finds it ready.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from producer.answers import Answer
    from producer.client import AsyncClient
    from producer.errors import (
        BatchConflictError,
        ClientClosedError,
        GateArgumentError,
        NotOutstandingError,
        ProducerError,
        PromptFileError,
        PromptsError,
        RedisUnavailableError,
        ResultTimeoutError,
        RolloutFailedError,
        SamplesDueError,
        StalenessError,
        UnknownBatchError,
        UnreadableResultError,
        VersionNotNewerError,
    )
    from producer.for_roll import RollStrategy
    from producer.for_trl import RolloutFunction
    from producer.for_verl import VerlRollout, VerlRollouts
    from producer.handle import BatchHandle
    from producer.rollout_batch import RolloutBatch
    from producer.staleness import StalenessGate
    from producer.sync import BlockingBatchHandle, Client
    from schemas import (
        Batch,
        ConfigError,
        ErrorCode,
        GenerationConfig,
        GroupError,
        GroupResult,
        NameRefusedError,
        RollstreamError,
        WireError,
    )

__all__ = [
    "Answer",
    "AsyncClient",
    "Batch",
    "BatchConflictError",
    "BatchHandle",
    "BlockingBatchHandle",
    "Client",
    "ClientClosedError",
    "ConfigError",
    "ErrorCode",
    "GateArgumentError",
    "GenerationConfig",
    "GroupError",
    "GroupResult",
    "NameRefusedError",
    "NotOutstandingError",
    "ProducerError",
    "PromptFileError",
    "PromptsError",
    "RedisUnavailableError",
    "ResultTimeoutError",
    "RollStrategy",
    "RolloutBatch",
    "RolloutFailedError",
    "RolloutFunction",
    "RollstreamError",
    "SamplesDueError",
    "StalenessError",
    "StalenessGate",
    "UnknownBatchError",
    "UnreadableResultError",
    "VerlRollout",
    "VerlRollouts",
    "VersionNotNewerError",
    "WireError",
]

_MODULES = {
    "Answer": "producer.answers",
    "AsyncClient": "producer.client",
    "BatchConflictError": "producer.errors",
    "ClientClosedError": "producer.errors",
    "ProducerError": "producer.errors",
    "PromptFileError": "producer.errors",
    "PromptsError": "producer.errors",
    "RedisUnavailableError": "producer.errors",
    "ResultTimeoutError": "producer.errors",
    "UnknownBatchError": "producer.errors",
    "UnreadableResultError": "producer.errors",
    "BatchHandle": "producer.handle",
    "RolloutBatch": "producer.rollout_batch",
    "BlockingBatchHandle": "producer.sync",
    "Client": "producer.sync",
    "GateArgumentError": "producer.errors",
    "NotOutstandingError": "producer.errors",
    "RolloutFailedError": "producer.errors",
    "SamplesDueError": "producer.errors",
    "StalenessError": "producer.errors",
    "VersionNotNewerError": "producer.errors",
    "StalenessGate": "producer.staleness",
    "RollStrategy": "producer.for_roll",
    "RolloutFunction": "producer.for_trl",
    "VerlRollout": "producer.for_verl",
    "VerlRollouts": "producer.for_verl",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES.get(name, "schemas")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
