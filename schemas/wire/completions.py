"""A group's completions one by one, without their padding: what a reward function looks at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .messages import FinishReason, GroupResult, VersionSpan


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled continuation of a group's prompt. Its length is `len(completion)`; iterating it gives its ids."""

    sample: int
    """Its number within the group."""
    token_ids: list[int]
    """The sampled ids, the one that ended it included."""
    logprobs: list[float] | None
    """Of each id; None when the config asked for none."""
    text: str | None
    """With `stop_strings` only; else decode `token_ids` with the tokenizer."""
    finish_reason: FinishReason
    """`stop` or `length`; `abort` when an engine gave it up."""
    stop_reason: int | str | None
    """The stop id or stop string that ended it."""
    score: float | None
    """Of a beam."""
    version_spans: tuple[VersionSpan, ...]
    """(policy version, tokens) in order: which weights sampled it."""

    def __len__(self) -> int:
        return len(self.token_ids)

    def __iter__(self) -> Iterator[int]:
        return iter(self.token_ids)


def completions_of(result: GroupResult) -> tuple[Completion, ...]:
    """One object a completion, in the order of the seeds (of the scores, for beams)."""
    lengths = result.lengths.tolist()
    ids, scores = result.token_ids.numpy(), None if result.scores is None else result.scores.tolist()
    logprobs = None if result.logprobs is None else result.logprobs.numpy()
    return tuple(
        Completion(
            sample=sample,
            token_ids=ids[sample, :length].tolist(),
            logprobs=None if logprobs is None else logprobs[sample, :length].tolist(),
            text=None if result.texts is None else result.texts[sample],
            finish_reason=result.finish_reasons[sample],
            stop_reason=result.stop_reasons[sample],
            score=None if scores is None else scores[sample],
            version_spans=result.version_spans[sample],
        )
        for sample, length in enumerate(lengths)
    )
