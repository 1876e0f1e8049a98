"""What a trainer imports. Imports neither vLLM nor torch; torch is loaded when tensors are asked for.

A name's module is loaded when the name is: `rollstream` starts without any, so that Ctrl-C finds it ready.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rollstream.producer.batches.handle import BatchHandle
    from rollstream.producer.batches.read_answers import Answer
    from rollstream.producer.blocking_client import BlockingBatchHandle, BlockingRun, BlockingScoreHandle, Client
    from rollstream.producer.client import AsyncClient
    from rollstream.producer.errors import (
        ArgumentError,
        BatchCancelledError,
        BatchConflictError,
        ClientClosedError,
        ClientMisusedError,
        DeadlineError,
        JobGoneError,
        LengthsFileError,
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
    from rollstream.producer.order.prompt_lengths import PromptLengths
    from rollstream.producer.policies.errors import (
        ActivationError,
        AdapterConflictError,
        AdapterError,
        CheckpointError,
        PolicyKindError,
        PolicyVersionError,
        VersionBoundError,
        VersionTimeoutError,
        VersionWaitError,
    )
    from rollstream.producer.probes.errors import ProbeError
    from rollstream.producer.probes.make_probe import make_probe
    from rollstream.producer.probes.probe_of import probe_of
    from rollstream.producer.probes.probe_of_folder import probe_of_folder
    from rollstream.producer.queue_errors import (
        LeaseInUseError,
        LostJobsError,
        TooLargeForRedisError,
        UnconfirmedSubmitError,
    )
    from rollstream.producer.rollouts.errors import RowsError, TensorFileError
    from rollstream.producer.rollouts.rollout_batch import RolloutBatch
    from rollstream.producer.rollouts.selection import Selection
    from rollstream.producer.rollouts.support import SamplingSupport
    from rollstream.producer.rounds.errors import RoundRefusedError
    from rollstream.producer.rounds.round_options import RoundOptions
    from rollstream.producer.run_errors import (
        BatchConsumedError,
        BatchNotOutstandingError,
        CursorError,
        NotQueuedError,
        RunChangedError,
        RunError,
        RunLostError,
        RunNotOpenError,
        RunTakenError,
        UnknownRunError,
        UnreadableRunError,
    )
    from rollstream.producer.runs.book import RunCounts
    from rollstream.producer.runs.outstanding import OutstandingBatch
    from rollstream.producer.runs.run import Run
    from rollstream.producer.scores.handle import ScoreHandle
    from rollstream.producer.scores.score_batch import ScoreBatch
    from rollstream.producer.staleness.staleness_errors import (
        GateArgumentError,
        NotOutstandingError,
        SamplesDueError,
        StalenessError,
        VersionNotNewerError,
    )
    from rollstream.producer.staleness.staleness_gate import StalenessGate
    from rollstream.producer.trainers.roll import RollStrategy
    from rollstream.producer.trainers.trl import RolloutFunction
    from rollstream.producer.trainers.trl_callback import PublishPolicy
    from rollstream.producer.trainers.trl_teacher import TeacherClient
    from rollstream.producer.trainers.verl import VerlRollout, VerlRollouts
    from rollstream.producer.trainers.verl_reference import VerlReference
    from rollstream.producer.weights.store_options import StoreOptions
    from rollstream.schemas import (
        Activate,
        Batch,
        Completion,
        ConfigError,
        ErrorCode,
        GenerationConfig,
        GroupError,
        GroupResult,
        GroupScores,
        Guided,
        NameRefusedError,
        OptionError,
        PolicyVersion,
        Probe,
        Repetition,
        RollstreamError,
        Tolerance,
        Turn,
        WireError,
    )
    from rollstream.transport.weights import WeightStoreError

__all__ = [
    "Activate",
    "ActivationError",
    "AdapterConflictError",
    "AdapterError",
    "Answer",
    "ArgumentError",
    "AsyncClient",
    "Batch",
    "BatchCancelledError",
    "BatchConflictError",
    "BatchConsumedError",
    "BatchHandle",
    "BatchNotOutstandingError",
    "BlockingBatchHandle",
    "BlockingRun",
    "BlockingScoreHandle",
    "CheckpointError",
    "Client",
    "ClientClosedError",
    "ClientMisusedError",
    "Completion",
    "ConfigError",
    "CursorError",
    "DeadlineError",
    "ErrorCode",
    "GateArgumentError",
    "GenerationConfig",
    "GroupError",
    "GroupResult",
    "GroupScores",
    "Guided",
    "JobGoneError",
    "LeaseInUseError",
    "LengthsFileError",
    "LostJobsError",
    "NameRefusedError",
    "NoStoredResultError",
    "NotOutstandingError",
    "NotQueuedError",
    "NothingToReplayError",
    "OptionError",
    "OutstandingBatch",
    "PartialBatchError",
    "PolicyKindError",
    "PolicyVersion",
    "PolicyVersionError",
    "Probe",
    "ProbeError",
    "ProducerError",
    "PromptFileError",
    "PromptLengths",
    "PromptsError",
    "PublishPolicy",
    "PublishingRefusedError",
    "RedisUnavailableError",
    "Repetition",
    "ResultTimeoutError",
    "RollStrategy",
    "RolloutBatch",
    "RolloutFailedError",
    "RolloutFunction",
    "RollstreamError",
    "RoundOptions",
    "RoundRefusedError",
    "RowsError",
    "Run",
    "RunChangedError",
    "RunCounts",
    "RunError",
    "RunLostError",
    "RunNotOpenError",
    "RunTakenError",
    "SamplesDueError",
    "SamplingSupport",
    "ScoreBatch",
    "ScoreHandle",
    "Selection",
    "StalenessError",
    "StalenessGate",
    "StoreOptions",
    "TeacherClient",
    "TensorFileError",
    "Tolerance",
    "TooLargeForRedisError",
    "Turn",
    "UnconfirmedSubmitError",
    "UnknownBatchError",
    "UnknownRunError",
    "UnreadableResultError",
    "UnreadableRunError",
    "VerlReference",
    "VerlRollout",
    "VerlRollouts",
    "VersionBoundError",
    "VersionNotNewerError",
    "VersionTimeoutError",
    "VersionWaitError",
    "WeightStoreError",
    "WireError",
    "make_probe",
    "probe_of",
    "probe_of_folder",
]

__version__: str
"""See `rollstream.version`."""

_MODULES = {
    "BatchConsumedError": "rollstream.producer.run_errors",
    "BatchNotOutstandingError": "rollstream.producer.run_errors",
    "BlockingRun": "rollstream.producer.blocking_client",
    "CursorError": "rollstream.producer.run_errors",
    "NotQueuedError": "rollstream.producer.run_errors",
    "OutstandingBatch": "rollstream.producer.runs.outstanding",
    "Run": "rollstream.producer.runs.run",
    "RunCounts": "rollstream.producer.runs.book",
    "RunChangedError": "rollstream.producer.run_errors",
    "RunError": "rollstream.producer.run_errors",
    "RunLostError": "rollstream.producer.run_errors",
    "RunNotOpenError": "rollstream.producer.run_errors",
    "RunTakenError": "rollstream.producer.run_errors",
    "UnknownRunError": "rollstream.producer.run_errors",
    "UnreadableRunError": "rollstream.producer.run_errors",
    "Answer": "rollstream.producer.batches.read_answers",
    "AsyncClient": "rollstream.producer.client",
    "ArgumentError": "rollstream.producer.errors",
    "BatchCancelledError": "rollstream.producer.errors",
    "BatchConflictError": "rollstream.producer.errors",
    "ClientClosedError": "rollstream.producer.errors",
    "ClientMisusedError": "rollstream.producer.errors",
    "DeadlineError": "rollstream.producer.errors",
    "ProducerError": "rollstream.producer.errors",
    "PromptFileError": "rollstream.producer.errors",
    "PromptsError": "rollstream.producer.errors",
    "RedisUnavailableError": "rollstream.producer.errors",
    "ResultTimeoutError": "rollstream.producer.errors",
    "TooLargeForRedisError": "rollstream.producer.queue_errors",
    "UnconfirmedSubmitError": "rollstream.producer.queue_errors",
    "UnknownBatchError": "rollstream.producer.errors",
    "UnreadableResultError": "rollstream.producer.errors",
    "JobGoneError": "rollstream.producer.errors",
    "LeaseInUseError": "rollstream.producer.queue_errors",
    "LostJobsError": "rollstream.producer.queue_errors",
    "LengthsFileError": "rollstream.producer.errors",
    "PromptLengths": "rollstream.producer.order.prompt_lengths",
    "NoStoredResultError": "rollstream.producer.errors",
    "NothingToReplayError": "rollstream.producer.errors",
    "PartialBatchError": "rollstream.producer.errors",
    "BatchHandle": "rollstream.producer.batches.handle",
    "RolloutBatch": "rollstream.producer.rollouts.rollout_batch",
    "RowsError": "rollstream.producer.rollouts.errors",
    "SamplingSupport": "rollstream.producer.rollouts.support",
    "Selection": "rollstream.producer.rollouts.selection",
    "TensorFileError": "rollstream.producer.rollouts.errors",
    "BlockingBatchHandle": "rollstream.producer.blocking_client",
    "BlockingScoreHandle": "rollstream.producer.blocking_client",
    "ScoreBatch": "rollstream.producer.scores.score_batch",
    "ScoreHandle": "rollstream.producer.scores.handle",
    "Client": "rollstream.producer.blocking_client",
    "ActivationError": "rollstream.producer.policies.errors",
    "AdapterConflictError": "rollstream.producer.policies.errors",
    "AdapterError": "rollstream.producer.policies.errors",
    "CheckpointError": "rollstream.producer.policies.errors",
    "GateArgumentError": "rollstream.producer.staleness.staleness_errors",
    "NotOutstandingError": "rollstream.producer.staleness.staleness_errors",
    "PolicyKindError": "rollstream.producer.policies.errors",
    "PolicyVersionError": "rollstream.producer.policies.errors",
    "ProbeError": "rollstream.producer.probes.errors",
    "RolloutFailedError": "rollstream.producer.errors",
    "SamplesDueError": "rollstream.producer.staleness.staleness_errors",
    "StalenessError": "rollstream.producer.staleness.staleness_errors",
    "VersionBoundError": "rollstream.producer.policies.errors",
    "VersionNotNewerError": "rollstream.producer.staleness.staleness_errors",
    "VersionTimeoutError": "rollstream.producer.policies.errors",
    "VersionWaitError": "rollstream.producer.policies.errors",
    "make_probe": "rollstream.producer.probes.make_probe",
    "probe_of": "rollstream.producer.probes.probe_of",
    "probe_of_folder": "rollstream.producer.probes.probe_of_folder",
    "StalenessGate": "rollstream.producer.staleness.staleness_gate",
    "RoundOptions": "rollstream.producer.rounds.round_options",
    "RoundRefusedError": "rollstream.producer.rounds.errors",
    "StoreOptions": "rollstream.producer.weights.store_options",
    "WeightStoreError": "rollstream.transport.weights",
    "RollStrategy": "rollstream.producer.trainers.roll",
    "RolloutFunction": "rollstream.producer.trainers.trl",
    "PublishPolicy": "rollstream.producer.trainers.trl_callback",
    "PublishingRefusedError": "rollstream.producer.errors",
    "TeacherClient": "rollstream.producer.trainers.trl_teacher",
    "VerlReference": "rollstream.producer.trainers.verl_reference",
    "VerlRollout": "rollstream.producer.trainers.verl",
    "VerlRollouts": "rollstream.producer.trainers.verl",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("rollstream.version").__version__
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES.get(name, "rollstream.schemas")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
