"""What the workers of a policy answered in each minute, and how fast one of them is, for charts and estimates.
Each beat of a worker adds what it answered since its last beat.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from ..field_values import count_of, text_of

_ERROR = b"error:"
_STALE = b"staleness:"
MOST_STALE = 64
"""Groups that are this many versions behind, or more, count together."""
FEWEST_ANSWERS = 100
"""Before so many completions their mean says little."""
_MOST_NAMES = 256
"""Most names of one kind that are read of a minute: anybody may have written it."""


class HistoryField:
    """Fields of a minute: sums over all workers of the answers that Redis took."""

    GROUPS = "groups"
    """Groups with completions or scores."""
    SEQUENCES = "sequences"
    TOKENS = "tokens"
    """Tokens of the completions."""
    ASKED = "asked"
    """The most tokens that these completions might have had: sequences x `max_new_tokens`."""

    SCORED = "scored"
    """Tokens that were scored, which are no completions' tokens."""

    @staticmethod
    def staleness(versions: int) -> str:
        """Groups whose oldest tokens were so many versions behind the newest version when they were published."""
        return f"staleness:{min(versions, MOST_STALE)}"

    @staticmethod
    def error(code: str) -> str:
        """Groups that got this `ErrorCode`."""
        return f"error:{code}"


_SUMS = HistoryField.GROUPS, HistoryField.SEQUENCES, HistoryField.TOKENS, HistoryField.ASKED, HistoryField.SCORED


@dataclass(frozen=True, slots=True, kw_only=True)
class Minute:
    """The sums of one minute, by Redis' clock."""

    groups: int = 0
    sequences: int = 0
    tokens: int = 0
    asked: int = 0
    scored: int = 0
    staleness: Mapping[int, int] = field(default_factory=dict)
    """Groups by how many versions they were behind; `MOST_STALE` stands for more, too."""
    errors: Mapping[str, int] = field(default_factory=dict)
    """Groups with an error, by its code."""

    @classmethod
    def of(cls, told: Mapping[bytes, bytes]) -> Self:
        """The sums in the hash; a field that is missing or no number is 0."""
        stale = ((count_of(name), value) for name, value in _beginning_with(_STALE, told))
        return cls(
            **{name: count_of(told.get(name.encode(), b"")) or 0 for name in _SUMS},
            staleness={versions: count_of(value) or 0 for versions, value in stale if versions is not None},
            errors={text_of(code): count_of(value) or 0 for code, value in _beginning_with(_ERROR, told)},
        )


def _beginning_with(prefix: bytes, told: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    return [(name[len(prefix) :], value) for name, value in told.items() if name.startswith(prefix)][:_MOST_NAMES]


class RateField:
    """Fields of the hash `rate`."""

    TOKENS_PER_S = "tokens_per_s"
    FULL = "full"
    """Set once a worker was measured that was full all the time."""
    MEAN_LENGTH = "mean_length"
    ANSWERS = "answers"
    SHARE = "share"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """How fast the policy's workers were of late. It outlives them, so that a backlog can be given in seconds."""

    tokens_per_s: float | None = None
    """Tokens per second of one full worker, smoothed; the most that was seen of one if none was full; None if none was
    measured."""
    mean_length: float | None = None
    """Mean tokens of an answered completion; the last thousand count most."""
    answers: int = 0
    """How many completions the means are made of."""
    share: float | None = None
    """Mean of tokens that a completion has to tokens that were asked for, above 0 and at most 1."""

    @classmethod
    def of(cls, told: Mapping[bytes, bytes]) -> Self:
        """The rate in the hash; a field that makes no sense is not known."""
        return cls(
            tokens_per_s=_positive(told.get(RateField.TOKENS_PER_S.encode())),
            mean_length=_positive(told.get(RateField.MEAN_LENGTH.encode())),
            answers=count_of(told.get(RateField.ANSWERS.encode(), b"")) or 0,
            share=_positive(told.get(RateField.SHARE.encode())),
        )

    def expected_tokens(self, open_tokens: int) -> float:
        """How many of so many tokens that jobs still ask for will be generated.

        Their share is that of earlier completions, after `FEWEST_ANSWERS` of them; before, it counts as all.
        """
        share = self.share if self.share is not None and self.answers >= FEWEST_ANSWERS else 1.0
        return open_tokens * min(1.0, share)


def _positive(value: bytes | None) -> float | None:
    try:
        number = float(value or b"")
    except ValueError:
        return None
    return number if 0 < number < 1e12 else None
