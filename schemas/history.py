"""What the workers of a policy answered in each minute, and how fast one of them is, for charts and estimates.
Each beat of a worker adds what it answered since its last beat.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from .field_values import count_of

_ERROR = b"error:"


class HistoryField:
    """Fields of a minute: sums over all workers of the answers that Redis took."""

    GROUPS = "groups"
    """Groups with completions."""
    SEQUENCES = "sequences"
    TOKENS = "tokens"
    """Tokens of the completions."""
    STALENESS = "staleness"
    """How many versions a group's oldest tokens were behind the newest version when it was published."""

    @staticmethod
    def error(code: str) -> str:
        """Groups that got this `ErrorCode`."""
        return f"error:{code}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Minute:
    """The sums of one minute, by Redis' clock."""

    groups: int = 0
    sequences: int = 0
    tokens: int = 0
    staleness: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    """Groups with an error, by its code."""

    @classmethod
    def of(cls, told: Mapping[bytes, bytes]) -> Self:
        """The sums in the hash; a field that is missing or no number is 0."""
        names = (HistoryField.GROUPS, HistoryField.SEQUENCES, HistoryField.TOKENS, HistoryField.STALENESS)
        errors = {name[len(_ERROR) :]: value for name, value in told.items() if name.startswith(_ERROR)}
        return cls(
            **{name: count_of(told.get(name.encode(), b"")) or 0 for name in names},
            errors={code.decode("ascii", "replace"): count_of(value) or 0 for code, value in errors.items()},
        )


class RateField:
    """Fields of the hash `rate`."""

    TOKENS_PER_S = "tokens_per_s"
    MEAN_LENGTH = "mean_length"
    ANSWERS = "answers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How fast the policy's workers were of late. It outlives them, so that a backlog can be given in seconds."""

    tokens_per_s: float | None = None
    """Tokens per second of one worker while it had something to run, smoothed; None if none was measured."""
    mean_length: float | None = None
    """Mean tokens of an answered completion; the last thousand count most."""
    answers: int = 0
    """How many completions the mean is made of."""

    @classmethod
    def of(cls, told: Mapping[bytes, bytes]) -> Self:
        """The rate in the hash; a field that makes no sense is not known."""
        return cls(
            tokens_per_s=_positive(told.get(RateField.TOKENS_PER_S.encode())),
            mean_length=_positive(told.get(RateField.MEAN_LENGTH.encode())),
            answers=count_of(told.get(RateField.ANSWERS.encode(), b"")) or 0,
        )


def _positive(value: bytes | None) -> float | None:
    try:
        number = float(value or b"")
    except ValueError:
        return None
    return number if 0 < number < 1e12 else None
