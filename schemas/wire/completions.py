"""A group's completions one by one, without padding, for reward functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

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
    top_token_ids: NDArray[np.int32] | None = field(default=None, compare=False)
    """(L, K): the K likeliest at each of its L tokens, the likeliest first; None unless `top_logprobs` asked for it."""
    top_logprobs: NDArray[np.float32] | None = field(default=None, compare=False)
    """(L, K)"""
    label_logprobs: NDArray[np.float32] | None = field(default=None, compare=False)
    """(L, M): of the config's `label_token_ids`; minus infinity for an id that was ruled out."""
    support: list[NDArray[np.int32]] | None = field(default=None, compare=False)
    """The ids that each token was sampled from; None unless `sampling_support` asked for them."""
    forced: NDArray[np.bool_] | None = field(default=None, compare=False)
    """(L,), true where a token was put there and not sampled; None: nowhere."""
    resumed_at: int = 0
    """How many of its tokens deliveries before the last one sampled: another draw than an undisturbed one."""

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

    @property
    def resumed_at(self) -> Tensor | None:
        """int32 (n,)"""

    @property
    def top_token_ids(self) -> Tensor | None:
        """int32 (n, L, K)"""

    @property
    def top_logprobs(self) -> Tensor | None:
        """float32 (n, L, K)"""

    @property
    def label_logprobs(self) -> Tensor | None:
        """float32 (n, L, M)"""

    @property
    def support_ids(self) -> Tensor | None:
        """int32 (sum of `support_lengths`,)"""

    @property
    def support_lengths(self) -> Tensor | None:
        """int32 (n, L)"""

    @property
    def forced_mask(self) -> Tensor | None:
        """bit (n, L)"""


def completions_of(result: Padded) -> tuple[Completion, ...]:
    """One object for each completion, in the order of the seeds (for beams: of the scores)."""
    lengths = result.lengths.tolist()
    ids, scores = result.token_ids.numpy(), None if result.scores is None else result.scores.tolist()
    logprobs = None if result.logprobs is None else result.logprobs.numpy()
    tops, top_logprobs = _by_row(result.top_token_ids, lengths), _by_row(result.top_logprobs, lengths)
    labels, forced = _by_row(result.label_logprobs, lengths), _by_row(result.forced_mask, lengths)
    support = _support_by_row(result, lengths)
    resumed_at = [0] * len(lengths) if result.resumed_at is None else result.resumed_at.tolist()
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
            top_token_ids=tops[row],
            top_logprobs=top_logprobs[row],
            label_logprobs=labels[row],
            support=support[row],
            forced=forced[row],
            resumed_at=resumed_at[row],
        )
        for row, (sample, length) in enumerate(zip(samples, lengths, strict=True))
    )


def _by_row(values: Tensor | None, lengths: Sequence[int]) -> list[NDArray[Any] | None]:
    """Views of each row's part without padding."""
    if values is None:
        return [None] * len(lengths)
    array = values.numpy()
    return [array[row, :length] for row, length in enumerate(lengths)]


def _support_by_row(result: Padded, lengths: Sequence[int]) -> list[list[NDArray[np.int32]] | None]:
    if result.support_ids is None or result.support_lengths is None:
        return [None] * len(lengths)
    of_each = result.support_lengths.numpy()
    ends = of_each.ravel().cumsum().reshape(of_each.shape)
    ids = result.support_ids.numpy()
    return [
        [ids[end - count : end] for end, count in zip(ends[row, :length], of_each[row, :length], strict=True)]
        for row, length in enumerate(lengths)
    ]
