"""The producer's errors, each with the facts that an operator needs as fields."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rollstream.schemas import RollstreamError
from rollstream.schemas.errors import shown

if TYPE_CHECKING:
    from rollstream.schemas import GroupError


def handle_stays(kind: str, batch_id: str) -> str:
    """Text of the TypeError when a handle is pickled or copied: by a process pool, Ray, `deepcopy`."""
    return (
        f"a {kind} holds connections of this process and cannot be pickled or copied: send handle.batch_id "
        f"({batch_id!r}) and call client.attach({batch_id!r}) where it is needed"
    )


def client_stays(kind: str) -> str:
    """The same for a client, alone or inside a rollout function or a strategy."""
    return (
        f"{kind} holds connections of this process and cannot be pickled or copied: make a client in each process; "
        "batches travel as handle.batch_id, for client.attach(batch_id)"
    )


class ProducerError(RollstreamError):
    """Base of the errors that `producer` raises."""


class PromptsError(ProducerError):
    """Raised when `input_ids`, `attention_mask` or what is told of their rows cannot be used; nothing was queued.

    `row` and `column` say where, if the fault is at one place.
    """

    def __init__(self, what: str, problem: str, row: int | None = None, column: int | None = None) -> None:
        where = "" if row is None else f", row {row}" if column is None else f", row {row}, column {column}"
        super().__init__(f"{what}{where}: {problem}")
        self.what = what
        self.problem = problem
        self.row = row
        self.column = column


class ArgumentError(ProducerError):
    """Raised when an argument of a call cannot be used; nothing was queued or read. `name` is the parameter."""

    def __init__(self, name: str, value: object, rule: str) -> None:
        super().__init__(f"{name} {shown(value)}: {rule}")
        self.name = name
        self.value = value
        self.rule = rule


class PublishingRefusedError(ProducerError):
    """Raised when a callback cannot publish a trainer's weights; nothing was published. `what` is the obstacle."""

    def __init__(self, what: str, problem: str) -> None:
        super().__init__(f"{what} {problem}")
        self.what = what
        self.problem = problem


class PromptFileError(ProducerError):
    """Raised when a JSONL file of prompts cannot be read; the text starts with file and line."""

    def __init__(self, source: str, line: int | None, problem: str) -> None:
        super().__init__(f"{source}: {problem}" if line is None else f"{source}:{line}: {problem}")
        self.source = source
        self.line = line
        self.problem = problem


class LengthsFileError(ProducerError):
    """Raised when a file of remembered lengths cannot be read or written; nothing was read or changed."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class BatchConflictError(ProducerError):
    """Raised when `batch_id` is already taken by a batch with other prompts, config, adapter or slicing."""

    def __init__(self, batch_id: str) -> None:
        super().__init__(f"batch {batch_id!r} was already submitted with other content: choose another batch_id")
        self.batch_id = batch_id


class BatchCancelledError(ProducerError):
    """Raised when jobs of a cancelled batch are submitted. Its answers so far can be read; there will be no more."""

    def __init__(self, batch_id: str) -> None:
        super().__init__(
            f"batch {batch_id!r} was cancelled: submit under another batch_id, or `attach` to read what was answered"
        )
        self.batch_id = batch_id


class DeadlineError(ProducerError):
    """Raised when a deadline is not a positive number of seconds; nothing was queued. `name` is the parameter."""

    def __init__(self, name: str, value: object) -> None:
        super().__init__(f"{name} {shown(value)}: give seconds above 0 and below 1e9, or None for no deadline")
        self.name = name
        self.value = value


class UnknownBatchError(ProducerError):
    """Raised when Redis has no such batch (any more): never submitted, expired, deleted or another policy's."""

    def __init__(self, batch_id: str, policy: str, problem: str) -> None:
        super().__init__(f"batch {batch_id!r} of policy {policy!r}: {problem}")
        self.batch_id = batch_id
        self.policy = policy
        self.problem = problem


class ResultTimeoutError(ProducerError):
    """Raised when a batch is not complete in time. Nothing is lost: `result` or `attach` may wait again.

    `waiting_for` says what the batch waits for, as far as Redis could tell; empty if the time was too short to ask.
    """

    def __init__(self, batch_id: str, done: int, total: int, timeout_s: float, waiting_for: str = "") -> None:
        why = f"{waiting_for}; " if waiting_for else ""
        super().__init__(
            f"batch {batch_id!r}: {done} of {total} groups after {timeout_s:.4g} s: {why}"
            "wait again or see `rollstream doctor`"
        )
        self.batch_id = batch_id
        self.done = done
        self.total = total
        self.timeout_s = timeout_s
        self.waiting_for = waiting_for


class RolloutFailedError(ProducerError):
    """Raised when groups of a batch failed and the trainer's format has no place for a failed row.

    `errors` has a `GroupError` for each failed group. Nothing is lost: `attach(batch_id)` gives the others.
    """

    def __init__(self, batch_id: str, total: int, errors: dict[int, GroupError]) -> None:
        group, first = min(errors.items())
        told = f"group {group}: {first.code}: {first.field}: {first.message}"
        super().__init__(f"batch {batch_id!r}: {len(errors)} of {total} groups failed, the first: {told}")
        self.batch_id = batch_id
        self.total = total
        self.errors = errors


class UnreadableResultError(ProducerError):
    """Raised when Redis holds something for a batch that no worker writes. `data` has the bytes of `entry`."""

    def __init__(self, batch_id: str, entry: str, problem: str, data: bytes = b"") -> None:
        super().__init__(f"batch {batch_id!r}, entry {entry}: {problem}; was it written by another release?")
        self.batch_id = batch_id
        self.entry = entry
        self.problem = problem
        self.data = data


class RedisUnavailableError(ProducerError):
    """Raised when Redis cannot be reached, is away for too long or refuses a command. `url` has no password."""

    def __init__(self, what: str, url: str, problem: str, advice: str) -> None:
        super().__init__(f"cannot {what}: Redis at {url}: {problem}; {advice}")
        self.what = what
        self.url = url
        self.problem = problem
        self.advice = advice


class ClientClosedError(ProducerError):
    """Raised when a client is used after it was closed, and by calls that still wait when it is closed."""


class ClientMisusedError(ProducerError):
    """Raised when a client, or one of its handles, is used where the call would never end; nothing was sent.

    That is: in a process forked from the one that made it, in another event loop than before (`AsyncClient`), or in its
    own background thread (`Client`).
    """

    def __init__(self, what: str, problem: str, remedy: str) -> None:
        super().__init__(f"cannot {what}: {problem}; {remedy}")
        self.what = what
        self.problem = problem
        self.remedy = remedy


class UnknownWorkerError(ProducerError):
    """Raised when a named worker does not report; no worker was asked anything. `live`: the workers that report."""

    def __init__(self, workers: list[str], policy: str, live: list[str]) -> None:
        known = f"live are {', '.join(live)}" if live else "no worker is live"
        super().__init__(f"no live worker {', '.join(workers)} of policy {policy!r}: {known}")
        self.workers = workers
        self.policy = policy
        self.live = live


class NothingToReplayError(ProducerError):
    """Raised when a selection has no job that can be queued again; nothing was queued."""

    def __init__(self, selection: str, problem: str) -> None:
        super().__init__(f"nothing to replay for {selection}: {problem}")
        self.selection = selection
        self.problem = problem


class PartialBatchError(ProducerError):
    """Raised when a whole batch should be replayed but only some of its jobs can be; nothing was queued."""

    def __init__(self, batch_id: str, left: int, total: int, problem: str) -> None:
        super().__init__(
            f"batch {batch_id!r}: {total - left} of {total} jobs cannot be replayed: {problem}; "
            "--partial replays the others"
        )
        self.batch_id = batch_id
        self.left = left
        self.total = total
        self.problem = problem


class NoStoredResultError(ProducerError):
    """Raised when a replay cannot be verified, because groups of the original have no result; nothing was queued."""

    def __init__(self, batch_id: str, missing: int, total: int) -> None:
        super().__init__(
            f"batch {batch_id!r}: {missing} of {total} groups have no stored result to compare with: they are not "
            "answered yet, or expired, or were deleted; replay without --verify"
        )
        self.batch_id = batch_id
        self.missing = missing
        self.total = total


class JobGoneError(ProducerError):
    """Raised when a selected job is gone before it could be queued again; what was queued stays queued."""

    def __init__(self, stream: str, entry_id: str) -> None:
        super().__init__(f"entry {entry_id} of {stream} was trimmed or replaced while it was being replayed")
        self.stream = stream
        self.entry_id = entry_id


class UnknownLetterError(ProducerError):
    """Raised when no dead letter has this name, or several have it."""

    def __init__(self, name: str, policy: str, problem: str) -> None:
        super().__init__(f"dead letter {shown(name)} of policy {policy!r}: {problem}")
        self.name = name
        self.policy = policy
        self.problem = problem


class RequeueRefusedError(ProducerError):
    """Raised when a dead letter has no job that could be queued again; the letter stays."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"dead letter {name} cannot be queued again: {problem}; `rollstream dead show` tells more")
        self.name = name
        self.problem = problem


class GoldenRefusedError(ProducerError):
    """Raised when golden jobs cannot be recorded from these workers, or not be compared with what they give."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"golden: {problem}")
        self.problem = problem
