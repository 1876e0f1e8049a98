"""What a live worker says of itself in its hash: the worker writes it, status, doctor and waiting producers read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Self

from .entry_id import version_of
from .field_values import count_of, seconds_of, text_of, yes_or_no

DRAIN = "drain"
"""Field of the same hash that an operator writes: the worker is to end as on SIGTERM."""


class WorkerState(StrEnum):
    """What a worker does with jobs."""

    STARTING = "starting"
    """It loads its model, or the version that it is to serve."""
    SERVING = "serving"
    PAUSED = "paused"
    """It takes none for now; what runs goes on."""
    DRAINING = "draining"
    """It ends: it will take none any more."""


def _texts(value: bytes) -> tuple[str, ...]:
    return tuple(filter(None, text_of(value).split(",")))


def _version(value: bytes) -> int | None:
    return version_of(value[:20].decode("latin-1"))


def _read_by(read: Callable[[bytes], Any], default: Any = None) -> Any:
    return field(default=default, metadata={"read": read})


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """None, or an empty text, where the worker does not say; its texts are printable once they were read."""

    seen_at: float | None = _read_by(seconds_of)
    """Unix seconds by the worker's clock: when it wrote this."""
    started_at: float | None = _read_by(seconds_of)
    process: str = _read_by(text_of, "")
    """Host, process id and a random word: two workers never have the same."""
    state: str = _read_by(text_of, "")
    """A `WorkerState`, unless something else wrote it."""
    paused_for: tuple[str, ...] = _read_by(_texts, ())
    """Each a `PauseReason`, by a worker that is no newer than its reader."""
    engine: str = _read_by(text_of, "")
    model: str = _read_by(text_of, "")
    partitions: int | None = _read_by(count_of)
    """How many it reads, from 0 on."""
    takes_checkpoints: bool | None = _read_by(yes_or_no)
    """Whether it was started for policy versions that are published as checkpoints."""
    takes_adapters: bool | None = _read_by(yes_or_no)
    lease_s: float | None = _read_by(seconds_of)
    policy_version: int | None = _read_by(_version)
    """Which it serves; 0 for what it was started with."""
    policy_sha256: str = _read_by(text_of, "")
    """Digest of the served version; empty for the boot model."""
    newest_version: int | None = _read_by(_version)
    """The newest that it has heard of."""
    policy_error: str = _read_by(text_of, "")
    """Why it refused the newest; empty where it did not."""
    running_groups: int | None = _read_by(count_of)
    running_sequences: int | None = _read_by(count_of)
    waiting_groups: int | None = _read_by(count_of)
    """Groups of jobs that it has read, which have no place in its engine yet."""
    held_jobs: int | None = _read_by(count_of)
    groups_published: int | None = _read_by(count_of)
    """Since it started, as are all that follow."""
    groups_duplicate: int | None = _read_by(count_of)
    groups_fenced: int | None = _read_by(count_of)
    tokens_generated: int | None = _read_by(count_of)

    def fields(self) -> dict[str, str]:
        """What HSET takes: all that it says. An empty text is said too, for it replaces another."""
        said = ((name, getattr(self, name)) for name in REPORT_FIELDS)
        return {name: _written(value) for name, value in said if value is not None}

    @classmethod
    def of(cls, told: Mapping[bytes, bytes]) -> Self:
        """Raises nothing: what makes no sense is not said, and what it does not know it leaves out."""
        known = {
            one.name: one.metadata["read"](told[name]) for one in fields(cls) if (name := one.name.encode()) in told
        }
        return cls(**known)

    @classmethod
    def of_values(cls, values: Sequence[bytes | None]) -> Self | None:
        """The same from the values of `REPORT_FIELDS`; None where there is none of them."""
        told = {name.encode(): value for name, value in zip(REPORT_FIELDS, values, strict=True) if value is not None}
        return cls.of(told) if told else None

    @property
    def is_starting(self) -> bool:
        """Whether it takes no jobs yet."""
        return self.state == WorkerState.STARTING


REPORT_FIELDS = tuple(one.name for one in fields(WorkerReport))
"""What a reader asks for, whatever else stands in the hash."""
ADDITION = "addition"
"""Field of the same hash: the last that this worker added to the history, so that no addition counts twice."""
STATE_FIELD = "state"
"""The one that whoever waits for a worker needs."""
PROCESS_FIELD = "process"
"""The one that whoever begins to report under a name writes first, where nobody else has it."""


def _written(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return str(int(value) if isinstance(value, bool) else value)
