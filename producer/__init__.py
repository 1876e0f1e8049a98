"""What a trainer imports. Imports neither vLLM nor torch; torch is loaded when tensors are asked for."""

from producer.answers import Answer
from producer.client import AsyncClient
from producer.errors import (
    BatchConflictError,
    ClientClosedError,
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
    "BatchConflictError",
    "BatchHandle",
    "BlockingBatchHandle",
    "Client",
    "ClientClosedError",
    "ConfigError",
    "ErrorCode",
    "GenerationConfig",
    "GroupError",
    "GroupResult",
    "NameRefusedError",
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
