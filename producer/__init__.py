"""What a trainer imports. Imports neither vLLM nor torch; torch is loaded when tensors are asked for.

A name's module is loaded when the name is: `rollstream` starts without any, so that Ctrl-C finds it ready.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from producer.answers import Answer
    from producer.client import AsyncClient
    from producer.errors import (
        BatchCancelledError,
        BatchConflictError,
        ClientClosedError,
        DeadlineError,
        JobGoneError,
        NoStoredResultError,
        NothingToReplayError,
        PartialBatchError,
        ProducerError,
        PromptFileError,
        PromptsError,
        RedisUnavailableError,
        ResultTimeoutError,
        UnknownBatchError,
        UnreadableResultError,
    )
    from producer.handle import BatchHandle
    from producer.rollout_batch import RolloutBatch
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
    "BatchCancelledError",
    "BatchConflictError",
    "BatchHandle",
    "BlockingBatchHandle",
    "Client",
    "ClientClosedError",
    "ConfigError",
    "DeadlineError",
    "ErrorCode",
    "GenerationConfig",
    "GroupError",
    "GroupResult",
    "JobGoneError",
    "NameRefusedError",
    "NoStoredResultError",
    "NothingToReplayError",
    "PartialBatchError",
    "ProducerError",
    "PromptFileError",
    "PromptsError",
    "RedisUnavailableError",
    "ResultTimeoutError",
    "RolloutBatch",
    "RollstreamError",
    "UnknownBatchError",
    "UnreadableResultError",
    "WireError",
]

_MODULES = {
    "Answer": "producer.answers",
    "AsyncClient": "producer.client",
    "BatchCancelledError": "producer.errors",
    "BatchConflictError": "producer.errors",
    "ClientClosedError": "producer.errors",
    "DeadlineError": "producer.errors",
    "ProducerError": "producer.errors",
    "PromptFileError": "producer.errors",
    "PromptsError": "producer.errors",
    "RedisUnavailableError": "producer.errors",
    "ResultTimeoutError": "producer.errors",
    "UnknownBatchError": "producer.errors",
    "UnreadableResultError": "producer.errors",
    "JobGoneError": "producer.errors",
    "NoStoredResultError": "producer.errors",
    "NothingToReplayError": "producer.errors",
    "PartialBatchError": "producer.errors",
    "BatchHandle": "producer.handle",
    "RolloutBatch": "producer.rollout_batch",
    "BlockingBatchHandle": "producer.sync",
    "Client": "producer.sync",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES.get(name, "schemas")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
