"""What goes wrong in a trainer's run: another trainer has it, a batch was consumed before, a cursor cannot be kept."""

from __future__ import annotations

from datetime import UTC, datetime

from rollstream.schemas.errors import shown
from rollstream.schemas.hashes.runs import RunFence, Taken

from .errors import ProducerError


class RunError(ProducerError):
    """Base of the errors of a `Run`. A call that raises one has written nothing."""

    def __init__(self, run: str, policy: str, problem: str) -> None:
        super().__init__(f"run {run!r} of policy {policy!r}: {problem}")
        self.run = run
        self.policy = policy
        self.problem = problem


class RunTakenError(RunError):
    """Raised when another trainer has opened the run since: this one may write nothing more through it, and ends.

    `holder` is the other trainer's host and process, `taken_at` when it opened the run (Unix seconds, Redis' clock;
    None if that cannot be read), `epoch` the other's and `own_epoch` this one's.
    """

    def __init__(
        self, run: str, policy: str, *, own_epoch: int, epoch: int, holder: str, taken_at: float | None
    ) -> None:
        at = "at an unknown time" if taken_at is None else _told(taken_at)
        problem = (
            f"taken by {holder or 'another trainer'} {at} (epoch {epoch}, this trainer has epoch {own_epoch}): "
            "nothing was written; end this trainer, or open the run again to take it back"
        )
        super().__init__(run, policy, problem)
        self.own_epoch = own_epoch
        self.epoch = epoch
        self.holder = holder
        self.taken_at = taken_at


class RunLostError(RunError):
    """Raised when Redis has the run no more, or only as it was before this trainer opened it, or wrote to it last.

    It was forgotten by an operator, its retention is over, or Redis lost it (FLUSHALL, a failover).
    """

    def __init__(self, run: str, policy: str, own_epoch: int, epoch: int | None) -> None:
        before = "before this trainer" if epoch != own_epoch else "before this trainer's last write"
        there = "it is gone" if epoch is None else f"it is there with epoch {epoch}, as it was {before}"
        problem = (
            f"{there}: forgotten by an operator, past its retention, or lost by Redis; nothing was written. Open it "
            "again, and compare its cursor with your last checkpoint"
        )
        super().__init__(run, policy, problem)
        self.own_epoch = own_epoch
        self.epoch = epoch


class RunNotOpenError(RunError):
    """Raised when a `Run` is used outside of its `with` block."""

    def __init__(self, run: str, policy: str, problem: str) -> None:
        super().__init__(run, policy, f"{problem}: use it inside of `with client.run({run!r}) as run`")


class UnreadableRunError(RunError):
    """Raised when Redis holds something for a run that no trainer writes. Nothing was changed; `field` names it."""

    def __init__(self, run: str, policy: str, field: str, problem: str) -> None:
        told = f"its field {shown(field)} {problem}; mend the field, or give the run up: rollstream runs --forget {run}"
        super().__init__(run, policy, told)
        self.field = field


class UnknownRunError(RunError):
    """Raised when there is no such run (any more)."""

    def __init__(self, run: str, policy: str) -> None:
        super().__init__(run, policy, "unknown: never opened, forgotten, or past its retention")


class RunChangedError(RunError):
    """Raised when a run cannot be forgotten because a trainer has opened it meanwhile."""

    def __init__(self, run: str, policy: str) -> None:
        super().__init__(run, policy, "a trainer has opened it meanwhile: look again, and end the trainer first")


class BatchNotOutstandingError(RunError):
    """Raised when a batch is consumed or dropped that this run has not outstanding."""

    def __init__(self, run: str, policy: str, batch_id: str, problem: str = "") -> None:
        told = problem or "is not outstanding: it was never submitted through this run, or consumed or dropped long ago"
        super().__init__(run, policy, f"batch {batch_id!r} {told}")
        self.batch_id = batch_id


class BatchConsumedError(BatchNotOutstandingError):
    """Raised when a batch is consumed, or submitted, that this run has consumed or dropped before."""

    def __init__(self, run: str, policy: str, batch_id: str) -> None:
        problem = "was consumed or dropped before: each batch is trained on once; other prompts need another batch_id"
        super().__init__(run, policy, batch_id, problem)


class NotQueuedError(RunError):
    """Raised when the handle is asked of an outstanding batch that was never queued, or not all of it.

    Its trainer died, or stopped waiting, between the intent and the last job. `why` says what is there of it.
    """

    def __init__(self, run: str, policy: str, batch_id: str, why: str) -> None:
        remedy = f"submit the same prompts or rows again with batch_id={batch_id!r}, or `await run.dropped(...)`"
        super().__init__(run, policy, f"batch {batch_id!r} {why}: {remedy}")
        self.batch_id = batch_id
        self.why = why


class CursorError(RunError):
    """Raised when a cursor or a note cannot be kept: it is too large, or holds something that msgpack does not.

    `what` is "cursor" or "note".
    """

    def __init__(self, run: str, policy: str, what: str, problem: str) -> None:
        super().__init__(run, policy, f"{what}: {problem}")
        self.what = what


def not_held(policy: str, fence: RunFence, taken: Taken) -> RunTakenError | RunLostError:
    """The error for an opening that has the run no more."""
    if taken.epoch is None or taken.epoch < fence.epoch:
        return RunLostError(fence.name, policy, fence.epoch, taken.epoch)
    return RunTakenError(
        fence.name,
        policy,
        own_epoch=fence.epoch,
        epoch=taken.epoch,
        holder=taken.holder,
        taken_at=taken.taken_at,
    )


def _told(seconds: float) -> str:
    return f"at {datetime.fromtimestamp(seconds, UTC).isoformat(' ', timespec='seconds')}"
