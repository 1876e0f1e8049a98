"""One batch, one group or one dead letter, as its own page shows it. All texts are printable and bounded."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class GroupState(StrEnum):
    """How far a group is."""

    WAITING = "waiting"
    """It has no answer: its job waits for a worker, or runs."""
    ANSWERED = "answered"
    """It has an answer, which was not read: it is too large for a list, was not reached yet, or is gone."""
    RESULT = "result"
    ERROR = "error"
    CANCELLED = "cancelled"
    CUT = "cut"
    """It was cut before it had an answer: the batch needed it no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionSeen:
    """One completion of a group."""

    sample: int
    length: int
    """Tokens."""
    finish_reason: str
    stop_reason: int | str | None
    versions: tuple[tuple[int, int], ...]
    """(policy version, tokens) in order, the first 64."""
    token_ids: tuple[int, ...] | None
    """None in a list of groups."""
    text: str | None
    """Only of batches with stop strings, and None in a list of groups."""
    resumed_at: int = 0
    """After how many tokens a later delivery went on with it; 0: nothing disturbed it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSeen:
    """One group: how it was answered, and by whom."""

    group: int
    state: GroupState
    code: str = ""
    """Code of an error."""
    field: str = ""
    message: str = ""
    """Why there are no completions, or why the answer cannot be read."""
    prompt_length: int | None = None
    prompt_token_ids: tuple[int, ...] | None = None
    """None in a list of groups."""
    completions: tuple[CompletionSeen, ...] = ()
    """In a list of groups the first 64."""
    num_completions: int = 0
    are_ids_cut: bool = False
    """Whether ids are left out, because there are too many for one page."""
    worker: str = ""
    """Which worker answered."""
    entry_id: str = ""
    """The job's entry that was answered."""
    delivery: int | None = None
    """The delivery that won, counted from 1: so often the job was delivered until then."""
    lived: tuple[int, ...] = ()
    """The deliveries before it that ended although their worker lived; the others ended with their worker."""
    queued_s: float | None = None
    generate_s: float | None = None
    adapter: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSeen:
    """One batch, and some of its groups."""

    batch_id: str
    partition: int
    submitted_at: float
    """Unix seconds, the producer's clock."""
    submitted_s_ago: float
    num_groups: int
    num_jobs: int
    done: int
    cancelled: bool
    cancelled_s_ago: float | None
    config: dict[str, Any]
    """What differs from the defaults, and the two numbers that tell how much is generated."""
    adapter: str | None
    replay_of: str | None
    first: int
    """Number of the first group that is here."""
    groups: tuple[GroupSeen, ...]
    problem: str
    """Why answers are missing in `groups`; empty if none is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterSeen:
    """One dead letter, with what can be told of its job."""

    partition: int
    letter_id: str
    batch_id: str
    """Empty if the letter does not say, like the other texts."""
    entry_id: str
    """The entry of the job."""
    error: str
    traceback: str
    """Several lines."""
    deliveries: int
    worker: str
    delivered_s_ago: float | None
    buried_s_ago: float
    fields: tuple[tuple[str, str], ...]
    """The other fields of the job's entry."""
    payload_bytes: int
    groups: tuple[int, int] | None
    """Number of the job's first group and of the one after its last; None if its payload was not read."""
    prompt_lengths: tuple[int, ...]
    """Tokens of the first 64 prompts."""
    config: dict[str, Any]
    problem: str
    """Why the letter or its job cannot be read; empty if both can."""
