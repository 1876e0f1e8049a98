"""A group's completions one by one, without padding, for reward functions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from .fields import FinishReason, VersionSpan
from .tensors import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One sampled continuation of a group's prompt. Its length is `len(completion)`; iterating it gives its ids."""

    sample: int
    """Its number among the prompt's samples; its seed is the prompt's plus this."""
    token_ids: list[int]
    """The sampled ids, with the stop id if one ended it."""
    logprobs: list[float] | None
    """One for each id; None if the config asked for none."""
    text: str | None
    """Only with `stop_strings`; else decode `token_ids` with the tokenizer."""
    finish_reason: FinishReason
    """`stop`, `length` or `repetition`; `cut` if it was not needed any more, `abort` if an engine gave it up."""
    stop_reason: int | str | None
    """The stop id or stop string that ended it."""
    score: float | None
    """With beam search only: the beam's score."""
    version_spans: tuple[VersionSpan, ...]
    """(policy version, tokens) in order: which weights sampled it."""

    def __len__(self) -> int:
        return len(self.token_ids)

    def __iter__(self) -> Iterator[int]:
        return iter(self.token_ids)


class Padded(Protocol):
    """The n completions of a `GroupResult`, padded to the longest of them: L columns."""

    @property
    def token_ids(self) -> Tensor:
        """int32 (n, L)"""

    @property
    def lengths(self) -> Tensor:
        """int32 (n,)"""

    @property
    def logprobs(self) -> Tensor | None:
        """float32 (n, L)"""

    @property
    def scores(self) -> Tensor | None:
        """float32 (n,)"""

    @property
    def texts(self) -> tuple[str, ...] | None:
        """n of them"""

    @property
    def sample_index(self) -> Tensor | None:
        """int32 (n,)"""

    @property
    def finish_reasons(self) -> tuple[FinishReason, ...]:
        """n of them"""

    @property
    def stop_reasons(self) -> tuple[int | str | None, ...]:
        """n of them"""

    @property
    def version_spans(self) -> tuple[tuple[VersionSpan, ...], ...]:
        """n of them"""


def completions_of(result: Padded) -> tuple[Completion, ...]:
    """One object for each completion, in the order of the seeds (for beams: of the scores)."""
    lengths = result.lengths.tolist()
    ids, scores = result.token_ids.numpy(), None if result.scores is None else result.scores.tolist()
    logprobs = None if result.logprobs is None else result.logprobs.numpy()
    samples = range(len(lengths)) if result.sample_index is None else result.sample_index.tolist()
    return tuple(
        Completion(
            sample=sample,
            token_ids=ids[row, :length].tolist(),
            logprobs=None if logprobs is None else logprobs[row, :length].tolist(),
            text=None if result.texts is None else result.texts[row],
            finish_reason=result.finish_reasons[row],
            stop_reason=result.stop_reasons[row],
            score=None if scores is None else scores[row],
            version_spans=result.version_spans[row],
        )
        for row, (sample, length) in enumerate(zip(samples, lengths, strict=True))
    )
