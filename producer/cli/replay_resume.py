"""Options of one `rollstream replay`, and the command that it prints for the rest when it ends half-way."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import typer

from rollstream.schemas import Keys

from ..errors import BatchCancelledError, BatchConflictError, JobGoneError
from ..replay.criteria import Selector, as_options
from ..replay.plan import new_batch_id


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """How the selected jobs are queued, and what happens after."""

    batch_id: str | None
    attempt: str
    """Makes the default batch ids: the same attempt gives the same ids."""
    dry_run: bool
    rate: float | None
    verify: bool
    timeout: float | None
    json: bool

    def named(self, original_id: str) -> str:
        """The new batch's id."""
        return self.batch_id or new_batch_id(original_id, self.attempt)

    def again(self) -> list[str]:
        """The options that queue the rest in the same way."""
        options = ["--batch-id", self.batch_id] if self.batch_id else ["--continue", self.attempt]
        options += [] if self.rate is None else ["--rate", f"{self.rate}"]
        options += ["--verify"] if self.verify else []
        options += [] if self.timeout is None else ["--timeout", f"{self.timeout}"]
        return [*options, *(["--json"] if self.json else [])]


@dataclass(slots=True, kw_only=True)
class Sent:
    """How much has been queued so far."""

    any: bool = False
    """Whether a job was sent. Redis may have queued it even if its reply was lost."""
    jobs: int = 0
    """How many jobs are certainly queued."""


@contextmanager
def explained(keys: Keys, selector: Selector, how: ReplayOptions) -> Iterator[Sent]:
    """When an error or Ctrl-C ends the queueing half-way, tell how to queue the rest."""
    sent = Sent()
    try:
        yield sent
    except (BatchConflictError, BatchCancelledError, JobGoneError):
        if sent.jobs:
            typer.echo(
                "what was queued stays queued; the rest cannot be queued: the selected jobs have changed", err=True
            )
        raise
    except BaseException:
        if sent.any:
            command = shlex.join(["rollstream", "replay", *_where(keys), *as_options(selector), *how.again()])
            kept = "what was queued stays queued; this queues the rest, with the same --redis"
            typer.echo(f"{kept}, while no selected job is trimmed or dropped:\n{command}", err=True)
        raise


def _where(keys: Keys) -> list[str]:
    return ["--policy", keys.policy, *(["--partitions", str(keys.partitions)] if keys.partitions > 1 else [])]
