"""What a trainer imports. Imports neither vLLM nor torch; torch is loaded when tensors are asked for.

A name's module is loaded when the name is: `rollstream` starts without any, so that Ctrl-C finds it ready.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from producer.answers import Answer
    from producer.client import AsyncClient
    from producer.errors import (
        ArgumentError,
        BatchCancelledError,
        BatchConflictError,
        ClientClosedError,
        ClientMisusedError,
        DeadlineError,
        JobGoneError,
        NoStoredResultError,
        NothingToReplayError,
        PartialBatchError,
        ProducerError,
        PromptFileError,
        PromptsError,
        PublishingRefusedError,
        RedisUnavailableError,
        ResultTimeoutError,
        RolloutFailedError,
        UnknownBatchError,
        UnreadableResultError,
    )
    from producer.for_roll import RollStrategy
    from producer.for_trl import RolloutFunction
    from producer.for_verl import VerlRollout, VerlRollouts
    from producer.handle import BatchHandle
    from producer.policy_errors import (
        AdapterConflictError,
        AdapterError,
        CheckpointError,
        PolicyKindError,
        PolicyVersionError,
        VersionBoundError,
        VersionTimeoutError,
        VersionWaitError,
    )
    from producer.queue_errors import LeaseInUseError, LostJobsError, TooLargeForRedisError
    from producer.rollout_batch import RolloutBatch
    from producer.staleness import StalenessGate
    from producer.staleness_errors import (
        GateArgumentError,
        NotOutstandingError,
        SamplesDueError,
        StalenessError,
        VersionNotNewerError,
    )
    from producer.sync import BlockingBatchHandle, Client
    from producer.trl_callback import PublishPolicy
    from schemas import (
        Batch,
        Completion,
        ConfigError,
        ErrorCode,
        GenerationConfig,
        GroupError,
        GroupResult,
        NameRefusedError,
        PolicyVersion,
        RollstreamError,
        WireError,
    )

__all__ = [
    "AdapterConflictError",
    "AdapterError",
    "Answer",
    "ArgumentError",
    "AsyncClient",
    "Batch",
    "BatchCancelledError",
    "BatchConflictError",
    "BatchHandle",
    "BlockingBatchHandle",
    "CheckpointError",
    "Client",
    "ClientClosedError",
    "ClientMisusedError",
    "Completion",
    "ConfigError",
    "DeadlineError",
    "ErrorCode",
    "GateArgumentError",
    "GenerationConfig",
    "GroupError",
    "GroupResult",
    "JobGoneError",
    "LeaseInUseError",
    "LostJobsError",
    "NameRefusedError",
    "NoStoredResultError",
    "NotOutstandingError",
    "NothingToReplayError",
    "PartialBatchError",
    "PolicyKindError",
    "PolicyVersion",
    "PolicyVersionError",
    "ProducerError",
    "PromptFileError",
    "PromptsError",
    "PublishPolicy",
    "PublishingRefusedError",
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
    "TooLargeForRedisError",
    "UnknownBatchError",
    "UnreadableResultError",
    "VerlRollout",
    "VerlRollouts",
    "VersionBoundError",
    "VersionNotNewerError",
    "VersionTimeoutError",
    "VersionWaitError",
    "WireError",
]

_MODULES = {
    "Answer": "producer.answers",
    "AsyncClient": "producer.client",
    "ArgumentError": "producer.errors",
    "BatchCancelledError": "producer.errors",
    "BatchConflictError": "producer.errors",
    "ClientClosedError": "producer.errors",
    "ClientMisusedError": "producer.errors",
    "DeadlineError": "producer.errors",
    "ProducerError": "producer.errors",
    "PromptFileError": "producer.errors",
    "PromptsError": "producer.errors",
    "RedisUnavailableError": "producer.errors",
    "ResultTimeoutError": "producer.errors",
    "TooLargeForRedisError": "producer.queue_errors",
    "UnknownBatchError": "producer.errors",
    "UnreadableResultError": "producer.errors",
    "JobGoneError": "producer.errors",
    "LeaseInUseError": "producer.queue_errors",
    "LostJobsError": "producer.queue_errors",
    "NoStoredResultError": "producer.errors",
    "NothingToReplayError": "producer.errors",
    "PartialBatchError": "producer.errors",
    "BatchHandle": "producer.handle",
    "RolloutBatch": "producer.rollout_batch",
    "BlockingBatchHandle": "producer.sync",
    "Client": "producer.sync",
    "AdapterConflictError": "producer.policy_errors",
    "AdapterError": "producer.policy_errors",
    "CheckpointError": "producer.policy_errors",
    "GateArgumentError": "producer.staleness_errors",
    "NotOutstandingError": "producer.staleness_errors",
    "PolicyKindError": "producer.policy_errors",
    "PolicyVersionError": "producer.policy_errors",
    "RolloutFailedError": "producer.errors",
    "SamplesDueError": "producer.staleness_errors",
    "StalenessError": "producer.staleness_errors",
    "VersionBoundError": "producer.policy_errors",
    "VersionNotNewerError": "producer.staleness_errors",
    "VersionTimeoutError": "producer.policy_errors",
    "VersionWaitError": "producer.policy_errors",
    "StalenessGate": "producer.staleness",
    "RollStrategy": "producer.for_roll",
    "RolloutFunction": "producer.for_trl",
    "PublishPolicy": "producer.trl_callback",
    "PublishingRefusedError": "producer.errors",
    "VerlRollout": "producer.for_verl",
    "VerlRollouts": "producer.for_verl",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES.get(name, "schemas")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
