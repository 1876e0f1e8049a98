"""What a live worker writes about itself in its hash. `status`, `doctor` and waiting producers read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Self

from ..entry_id import version_of
from ..field_values import count_of, seconds_of, text_of, yes_or_no

DRAIN = "drain"
"""A field of the same hash that an operator writes: the worker then ends as on SIGTERM."""


class WorkerState(StrEnum):
    """What a worker does with jobs."""

    STARTING = "starting"
    """It loads its model, or the version that it will serve."""
    SERVING = "serving"
    PAUSED = "paused"
    """It takes no jobs for now; running ones go on."""
    DRAINING = "draining"
    """It is ending and takes no more jobs."""


def _texts(value: bytes) -> tuple[str, ...]:
    return tuple(filter(None, text_of(value).split(",")))


def _version(value: bytes) -> int | None:
    return version_of(value[:20].decode("latin-1"))


def _read_by(read: Callable[[bytes], Any], default: Any = None) -> Any:
    return field(default=default, metadata={"read": read})


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """A field that the worker did not write is None or an empty text. Texts that were read are printable."""

    seen_at: float | None = _read_by(seconds_of)
    """When the worker wrote this: unix seconds by its clock."""
    started_at: float | None = _read_by(seconds_of)
    process: str = _read_by(text_of, "")
    """Host, process id and a random word: two workers never have the same."""
    state: str = _read_by(text_of, "")
    """A `WorkerState`, unless something else wrote it."""
    paused_for: tuple[str, ...] = _read_by(_texts, ())
    """Each is a `PauseReason`; a worker newer than the reader may give others."""
    engine: str = _read_by(text_of, "")
    model: str = _read_by(text_of, "")
    partitions: int | None = _read_by(count_of)
    """How many partitions it reads, from number 0 on."""
    takes_checkpoints: bool | None = _read_by(yes_or_no)
    """Whether it was started for policy versions that are published as folders of a shared file system."""
    takes_store: bool | None = _read_by(yes_or_no)
    """Whether it was started for those that are published through the weight store."""
    takes_rounds: str = _read_by(text_of, "")
    """By what it takes versions from the trainer's memory, such as `nccl`; empty if it does not."""
    takes_adapters: bool | None = _read_by(yes_or_no)
    lease_s: float | None = _read_by(seconds_of)
    heartbeat_s: float | None = _read_by(seconds_of)
    """Seconds between two reports: one that is older than `LATE_BEATS` times this is late."""
    vocab_size: int | None = _read_by(count_of)
    """How many ids its model knows; None until it is loaded, like the four below."""
    max_logprobs: int | None = _read_by(count_of)
    """The most candidates that come with a token."""
    max_model_len: int | None = _read_by(count_of)
    """Most tokens of a row, prompt and completion together."""
    dtype: str = _read_by(text_of, "")
    """In which its engine computes."""
    runs_on: str = _read_by(text_of, "")
    """Its engine's release and device, for people."""
    metrics_port: int | None = _read_by(count_of)
    """Where Prometheus may ask it; None if it was started without."""
    policy_version: int | None = _read_by(_version)
    """The version that it serves; 0 for the boot model."""
    policy_sha256: str = _read_by(text_of, "")
    """Digest of the served version; empty for the boot model."""
    newest_version: int | None = _read_by(_version)
    """The newest activated version that it knows of."""
    announced_version: int | None = _read_by(_version)
    """The newest announced version that it knows of, activated or not."""
    prepared_version: int | None = _read_by(_version)
    """The newest version that it serves or could serve at once; None if it says nothing."""
    policy_proof: str = _read_by(text_of, "")
    """How well the served version reproduced its probe; empty if it has none."""
    loading_version: int | None = _read_by(_version)
    """The version that it is loading now; None if it loads none."""
    swap_pauses_s: float | None = _read_by(seconds_of)
    """Seconds in which swaps of weights let its engine sample nothing, all together since the worker started."""
    policy_error: str = _read_by(text_of, "")
    """Why it refused the newest version; empty if it did not."""
    running_groups: int | None = _read_by(count_of)
    running_sequences: int | None = _read_by(count_of)
    max_sequences: int | None = _read_by(count_of)
    """Most sequences that its engines run at once."""
    places: int | None = _read_by(count_of)
    """Most sequences that may be in its engines by now; fewer than `most_places` while the KV cache is full."""
    most_places: int | None = _read_by(count_of)
    kv_cache_use: float | None = _read_by(seconds_of)
    """The used share of the KV cache, 0 to 1; None if the engine does not tell."""
    preemptions: int | None = _read_by(count_of)
    """How often a running sequence lost its part of the KV cache to others since the worker started."""
    tokens_per_s: float | None = _read_by(seconds_of)
    """Tokens of the completions that ended in the last half minute, per second."""
    waiting_groups: int | None = _read_by(count_of)
    """Groups of the jobs that it has read, without a place in its engine yet."""
    held_jobs: int | None = _read_by(count_of)
    groups_published: int | None = _read_by(count_of)
    """Counted since the worker started, like the four after it."""
    groups_failed: int | None = _read_by(count_of)
    """How many of these were answered with an error."""
    groups_duplicate: int | None = _read_by(count_of)
    groups_fenced: int | None = _read_by(count_of)
    tokens_generated: int | None = _read_by(count_of)

    def fields(self) -> dict[str, str]:
        """The fields for HSET: all that are not None. An empty text is written too, because it replaces another."""
        said = ((name, getattr(self, name)) for name in REPORT_FIELDS)
        return {name: _written(value) for name, value in said if value is not None}

    @classmethod
    def of(cls, told: Mapping[bytes, bytes]) -> Self:
        """The report in a hash. Never raises: values that make no sense and unknown fields are left out."""
        return cls(**{name: read(told[key]) for name, key, read in _READERS if key in told})

    @classmethod
    def of_values(cls, values: Sequence[bytes | None]) -> Self | None:
        """The same from the values of `REPORT_FIELDS`; None if all are missing."""
        each = zip(_READERS, values, strict=True)
        known = {name: read(value) for (name, _, read), value in each if value is not None}
        return cls(**known) if known else None

    @property
    def is_starting(self) -> bool:
        """Whether it takes no jobs yet."""
        return self.state == WorkerState.STARTING


_READERS = tuple((one.name, one.name.encode(), one.metadata["read"]) for one in fields(WorkerReport))
REPORT_FIELDS = tuple(one.name for one in fields(WorkerReport))
"""The fields that a reader asks for; the hash may have more."""
ADDITION = "addition"
"""Field of the same hash: what this worker added to the history last, so that nothing counts twice."""
VERSION_FIELDS = ("state", "heartbeat_s", "policy_version", "prepared_version")
"""What other workers read, to know how many have prepared a version."""
ROOM_FIELDS = ("state", "paused_for", "running_sequences", "places", "waiting_groups", DRAIN)
"""What other workers read, to know whether it takes a job soon."""
STATE_FIELD = "state"
"""The field that a producer reads to wait for a worker."""
PROCESS_FIELD = "process"
"""The field that a worker writes first, to claim its name if no other worker has it."""


def _written(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return str(int(value) if isinstance(value, bool) else value)
