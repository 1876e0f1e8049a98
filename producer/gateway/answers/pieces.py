"""Some tokens of a completion with what belongs to each: of a part in Redis, or of a result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from rollstream.schemas import Completion, Part

Candidates = list[tuple[int, float]]
"""Ids and log-probs, the likeliest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Tokens in order; `logprobs` and `top` have an entry for each, or none at all."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[Candidates] = field(default_factory=list)

    @classmethod
    def of(cls, completion: Completion) -> Self:
        """All of a completion."""
        top = _candidates(completion.top_token_ids, completion.top_logprobs)
        return cls(ids=completion.token_ids, logprobs=completion.logprobs or [], top=top)

    @classmethod
    def of_part(cls, part: Part) -> Self:
        """All of a part."""
        top_ids = None if part.top_token_ids is None else part.top_token_ids.numpy()
        top = _candidates(top_ids, None if part.top_logprobs is None else part.top_logprobs.numpy())
        return cls(
            ids=part.token_ids.tolist(), logprobs=[] if part.logprobs is None else part.logprobs.tolist(), top=top
        )

    def after(self, length: int) -> Self:
        """Without its first `length` tokens."""
        return type(self)(ids=self.ids[length:], logprobs=self.logprobs[length:], top=self.top[length:])

    def __len__(self) -> int:
        return len(self.ids)


def _candidates(ids: Any, logprobs: Any) -> list[Candidates]:
    if ids is None or logprobs is None:
        return []
    rows: Sequence[tuple[list[int], list[float]]] = list(zip(ids.tolist(), logprobs.tolist(), strict=True))
    return [list(zip(*row, strict=True)) for row in rows]
