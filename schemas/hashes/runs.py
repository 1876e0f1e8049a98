"""A trainer's run: the fields of its hash in Redis, and the right of one trainer at a time to write through it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from ..field_values import count_of, seconds_of, text_of

MAX_CURSOR_BYTES = 65_536
MAX_NOTE_BYTES = 4_096
LAST_NUMBER = 2_000_000_000
"""The highest number of a submit that a run may be opened with. The next numbers still fit into an `Intent`."""
MAX_COUNT = 2**53
"""The greatest count that a run may be opened with: scripts add to it, and Lua's numbers are exact so far."""


class RunField(StrEnum):
    """Fields of a run's hash. Scripts write them; times are Unix seconds of Redis' clock."""

    EPOCH = "epoch"
    """How often the run was opened."""
    TOKEN = "token"  # noqa: S105 - a name, and what it names is no secret
    """Tells the opening that has the run from all others, even after the run was forgotten: it is the fence."""
    HOLDER = "holder"
    """Who opened it last, as `host:pid`."""
    TAKEN_AT = "taken_at"
    CLOSED_AT = "closed_at"
    """Only there once its last trainer has closed it."""
    OPENED_AT = "opened_at"
    """When it was opened for the first time."""
    SEEN_AT = "seen_at"
    """The last write of a trainer through it."""
    STEM = "stem"
    """What the ids of its batches begin with. A run that is opened again after it was forgotten has another."""
    KEPT_FOR = "kept_for"
    """Its retention in seconds."""
    LAST = "last"
    """The highest number that a submit has had."""
    SUBMITTED = "submitted"
    CONSUMED = "consumed"
    DROPPED = "dropped"
    CURSOR = "cursor"
    """The trainer's own, as msgpack."""
    CURSOR_VERSION = "cursor_version"
    """How often the cursor was moved."""
    CURSOR_AT = "cursor_at"
    GATE = "gate"
    """A `GateState`."""
    CALL = "call"
    """Which call of the opening that has it was the last to settle batches or save: the next one names it."""

    @staticmethod
    def outstanding(batch_id: str) -> str:
        """An `Intent`: the batch is to be submitted, or was, and is not consumed."""
        return f"outstanding:{batch_id}"

    @staticmethod
    def settled(batch_id: str) -> str:
        """Which call consumed or dropped the batch, until its results have their usual time to live again."""
        return f"settled:{batch_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFence:
    """The right of one opening of a run; scripts ask whether it still has the run before they write."""

    name: str
    epoch: int
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What a script found in place of the opening that asked."""

    epoch: int | None
    """None: there is no such run any more."""
    holder: str
    taken_at: float | None

    @classmethod
    def of(cls, reply: object) -> Self | None:
        """Read a reply of a script; None for one that does not say so."""
        if not isinstance(reply, Sequence) or len(reply) != 4 or reply[0] != b"taken":
            return None
        epoch, holder, taken_at = reply[1:]
        return cls(epoch=count_of(epoch), holder=text_of(holder), taken_at=seconds_of(taken_at))
