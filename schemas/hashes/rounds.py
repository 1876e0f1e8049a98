"""A round: one policy version that goes from the trainer's memory to the workers' at once. What its hash in Redis says.

The trainer opens it, workers join until it is closed, the trainer names the members, all of them link, and the tensors
are broadcast. A round that breaks is over: nothing is ever resumed, and another round has another epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

from ..field_values import count_of, text_of

STALE_MS = 3000
"""A party that has not beaten for so long is dead, by Redis' clock; each beats several times a second."""
BEAT_S = 0.1
ROUND_TTL_S = 3600
"""How long a round stays after its last step, for people who look."""


class RoundField(StrEnum):
    """Fields of the round's hash. Those of a member are followed by a colon and its name."""

    EPOCH = "epoch"
    """Tells one round from another, also where both bring the same version."""
    PHASE = "phase"
    PLAN = "plan"
    """A `RoundPlan`, from the moment on when nobody can join any more."""
    WHY = "why"
    """Why it broke."""
    AT = "at"
    """The trainer's last beat, and as `at:<name>` a member's, in milliseconds of Redis' clock."""
    RANKS = "ranks"
    DID = "did"

    def of(self, member: str) -> str:
        """The same field of a member; the trainer, which has no name, has the bare one."""
        return f"{self}:{member}" if member else str(self)


class Phase(StrEnum):
    """How far a round is."""

    OPEN = "open"
    """Workers may join."""
    SENDING = "sending"
    """The members are known."""
    DONE = "done"
    """Every member has received everything; what it made of it is its own business."""
    BROKEN = "broken"


class Did(StrEnum):
    """How far a member is."""

    JOINED = "joined"
    LINKED = "linked"
    RECEIVED = "received"
    """It has all tensors."""
    FAILED = "failed"
    """It is out, and nothing can be sent to it any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One worker in a round."""

    ranks: int
    """How many processes of its engine receive tensors."""
    silent_ms: int
    did: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundState:
    """What the hash says now. A field that makes no sense reads as missing."""

    epoch: str = ""
    phase: str = ""
    plan: bytes = b""
    why: str = ""
    silent_ms: int = STALE_MS
    """Since the trainer's last beat."""
    members: Mapping[str, Member] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        """Whether nothing more is sent in it."""
        return self.phase not in (Phase.OPEN, Phase.SENDING)

    @property
    def left_alone(self) -> bool:
        """Whether its trainer has died in the middle of it."""
        return not self.is_over and self.silent_ms >= STALE_MS

    @classmethod
    def of(cls, now_ms: int, told: Mapping[bytes, bytes]) -> Self:
        """Never raises."""
        prefix = f"{RoundField.RANKS}:".encode()
        names = [key[len(prefix) :] for key in told if key.startswith(prefix)]
        return cls(
            epoch=_text(told, RoundField.EPOCH),
            phase=_text(told, RoundField.PHASE),
            plan=told.get(RoundField.PLAN.encode(), b""),
            why=_text(told, RoundField.WHY),
            silent_ms=_silent(now_ms, told.get(RoundField.AT.encode())),
            members={name.decode("utf-8", "backslashreplace"): _member(now_ms, told, name) for name in names},
        )


def _text(told: Mapping[bytes, bytes], name: RoundField) -> str:
    return text_of(told.get(name.encode(), b""))


def _silent(now_ms: int, at: bytes | None) -> int:
    beaten = None if at is None else count_of(at)
    return STALE_MS if beaten is None else max(0, now_ms - beaten)


def _member(now_ms: int, told: Mapping[bytes, bytes], name: bytes) -> Member:
    def said(which: RoundField) -> bytes | None:
        return told.get(which.encode() + b":" + name)

    ranks = said(RoundField.RANKS)
    return Member(
        ranks=(count_of(ranks) if ranks else None) or 0,
        silent_ms=_silent(now_ms, said(RoundField.AT)),
        did=text_of(said(RoundField.DID) or b""),
    )
