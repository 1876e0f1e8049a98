"""The worker's errors, by cause: the data, the operator or the machine."""

from __future__ import annotations

from pathlib import Path

from rollstream.schemas import ErrorCode, RollstreamError
from rollstream.schemas.errors import cut
from rollstream.schemas.wire.proofs.probe import NOT_REPRODUCED, UNPROVABLE


class WorkerError(RollstreamError):
    """Base of the errors that `worker` raises."""


class SettingsError(WorkerError):
    """Raised at start when a setting cannot work; the process exits 2."""


class UnsupportedVllmError(SettingsError):
    """Raised when the vLLM that is installed is none with which this Rollstream ran, before vLLM is imported.

    `installed`: versions by the names of their distributions. `runs`: the series that ran.
    """

    def __init__(self, installed: dict[str, str], runs: str, remedy: str) -> None:
        named = " and ".join(f"{name} {version}" for name, version in installed.items())
        are = "is" if len(installed) == 1 else "are both"
        super().__init__(f"{named} {are} installed; this Rollstream runs releases {runs} of vLLM: {remedy}")
        self.installed = installed
        self.runs = runs


class DataError(WorkerError):
    """Raised when no worker can generate a group: it is answered with a `GroupError` and never retried."""

    def __init__(self, code: ErrorCode, field: str, message: str) -> None:
        super().__init__(cut(message))
        self.code = code
        self.field = cut(field)
        self.message = cut(message)


def adapter_refused(name: str, problem: str) -> DataError:
    """The error for an adapter that no worker can use as it is."""
    return DataError(ErrorCode.ADAPTER_REFUSED, "adapter", f"adapter {name!r}: {problem}")


class CacheUnwritableError(WorkerError):
    """Raised when an adapter cannot be kept on this worker's disk. The job is sound; other workers may run it."""

    def __init__(self, folder: Path, nbytes: int, error: OSError) -> None:
        problem = f"{error.strerror or error} (errno {error.errno})"
        super().__init__(cut(f"--adapter-cache: {nbytes} bytes cannot be written to {folder}: {problem}"))
        self.folder = folder
        self.nbytes = nbytes
        self.errno = error.errno


class LeaseLostError(WorkerError):
    """Raised when a publish was fenced: another worker owns the job now, so its other groups are given up."""


class UnpublishableError(WorkerError):
    """Raised when a key of a batch holds something else, so that Redis takes no answers: the job is a dead letter."""


class EngineDiedError(WorkerError):
    """Raised when the engine's process has ended or hangs. The worker ends with an error; its jobs stay pending."""


class UnprovenError(EngineDiedError):
    """Raised when an engine sampled with weights that did not pass their probe. The worker ends, and nothing leaves it.

    No engine may do so (`Engine.load_checkpoint`), so there is no knowing what else it does.
    """

    def __init__(self, version: int) -> None:
        super().__init__(f"the engine sampled under version {version}, which this worker has not proven: nothing left")
        self.version = version


class CheckpointRefusedError(WorkerError):
    """Raised when a checkpoint is incomplete or made for another model. The engine keeps its weights and goes on."""

    def __init__(self, folder: Path, where: str, problem: str) -> None:
        super().__init__(cut(f"checkpoint {folder.name}: {where}: {problem}"))
        self.folder = folder
        self.where = cut(where)
        self.problem = cut(problem)


class SwapFailedError(WorkerError):
    """Raised when vLLM could not load a checkpoint that fits. The engine has its old weights again and goes on."""

    def __init__(self, folder: Path, version: int, kept: int, problem: str) -> None:
        super().__init__(
            cut(f"checkpoint {folder.name}: version {version} could not be loaded, still serving {kept}: {problem}")
        )
        self.folder = folder
        self.version = version
        self.kept = kept
        self.problem = cut(problem)


class NotStagedError(SwapFailedError):
    """Raised when a checkpoint could not be read into memory before its swap, which will then read its files.

    Nothing was swapped, so it knows no version: `version` and `kept` are -1.
    """

    def __init__(self, folder: Path, problem: str) -> None:
        super().__init__(folder, -1, -1, problem)
        self.args = (cut(f"checkpoint {folder.name}: not in memory, so a swap will read its files: {problem}"),)


class VersionRefusedError(WorkerError):
    """Raised when an announced version has other content than announced, or this worker cannot reach it."""


class NotInStoreError(VersionRefusedError):
    """Raised when the weight store answers, and does not have what was announced, whole and of that content."""


class RoundMissedError(WorkerError):
    """Raised when a version did not come in its round. The engine has its old weights, and goes on."""

    def __init__(self, problem: str) -> None:
        super().__init__(cut(f"not received in its round: {problem}"))
        self.problem = cut(problem)


class ProofFailedError(WorkerError):
    """Raised when loaded weights do not reproduce the probe of their version. The engine has its old weights again.

    `mean` and `largest` are the differences in nats; both are infinite where the engine could not score the probe.
    """

    def __init__(self, version: int, problem: str, mean: float = float("inf"), largest: float = float("inf")) -> None:
        super().__init__(cut(f"version {version} {NOT_REPRODUCED}: {problem}"))
        self.version = version
        self.problem = cut(problem)
        self.mean = mean
        self.largest = largest


class UnprovableError(ProofFailedError):
    """Raised when this engine cannot score a version's probe, which says nothing of its weights."""

    def __init__(self, version: int, problem: str) -> None:
        super().__init__(version, problem)
        self.args = (cut(f"version {version} {UNPROVABLE}: {problem}"),)


def first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """One error of the group, since a dead engine fails every group at once; `EngineDiedError` before any other."""
    died = group.subgroup(EngineDiedError)
    error: BaseException = died or group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
