"""The fields of a `RolloutBatch`. All masks follow from lengths, never from pad or EOS ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from rollstream.schemas import GroupError
from rollstream.schemas.generation.generation_config import LogprobsFlavour
from rollstream.schemas.wire.fields import FinishReason, VersionSpan
from rollstream.schemas.wire.images import ImageRef, ImageSpan
from rollstream.schemas.wire.routing import RowRouting

from .row_batch import RowBatch
from .support import SamplingSupport

if TYPE_CHECKING:
    import torch

ROW_TUPLES = "finish_reasons", "stop_reasons", "texts", "version_spans"
SELDOM_TUPLES: Mapping[str, Any] = {"images": (), "image_spans": (), "routing": None}
"""R of each, or none at all where no row has any; with what stands for a row that has none."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class RolloutFields(RowBatch):
    """What a `RolloutBatch` holds."""

    batch_id: str
    prompt_len: int
    """P: columns of the submitted prompts, more where images made a prompt longer."""
    response_len: int
    """L: tokens of the longest response, or `max_new_tokens` if that was asked for."""
    sequences: torch.Tensor
    """int64 (R, P + L)"""
    attention_mask: torch.Tensor
    """int64 (R, P + L), 1 where there is a token"""
    position_ids: torch.Tensor
    """int64 (R, P + L), `clip(cumsum(attention_mask) - 1, 0)`"""
    prompt_mask: torch.Tensor
    """int64 (R, P + L), 1 where the token belongs to the prompt"""
    response_mask: torch.Tensor
    """int64 (R, P + L), 1 where the policy sampled the token"""
    old_log_probs: torch.Tensor | None
    """float32 (R, L): column j belongs to the token in `sequences[:, P + j]`; 0 where nothing was sampled. None if the
    config asked for none."""
    logprobs_flavour: LogprobsFlavour | None
    """Whether `old_log_probs` are under the sampling distribution (`processed`) or the model's own (`raw`)."""
    prompt_lengths: torch.Tensor
    """int64 (R,)"""
    response_lengths: torch.Tensor
    """int64 (R,)"""
    group_index: torch.Tensor
    """int64 (R,), the number of the prompt in this batch: row // n, unless `select` took rows out"""
    scores: torch.Tensor | None
    """float32 (R,), beam search only; NaN in failed rows"""
    finish_reasons: tuple[FinishReason, ...]
    """R of `stop`, `length`, `repetition`, `cut` (its group was not needed), `abort`, `error`"""
    stop_reasons: tuple[int | str | None, ...]
    """R stop ids or stop strings; None if cut by length or failed"""
    texts: tuple[str | None, ...]
    """R decoded completions with `stop_strings`, else None"""
    version_spans: tuple[tuple[VersionSpan, ...], ...]
    """R tuples of `(policy version, tokens)`, in order"""
    spans_exact: bool
    """False if an engine could not tell which version sampled which token."""
    errors: dict[int, GroupError]
    """Failed groups, and groups that were cut, by their number."""
    num_return_sequences: int
    """Rows of each prompt: n, or the k of `first_k`. The most, where `select` or `cat` left prompts with different
    numbers of rows."""
    pad_token_id: int
    top_token_ids: torch.Tensor | None = None
    """int64 (R, L, K): the K = `top_logprobs` likeliest ids at each column, the likeliest first; 0 where nothing was
    sampled, as in what follows. None unless asked for."""
    top_log_probs: torch.Tensor | None = None
    """float32 (R, L, K): their log-probs, of `logprobs_flavour`"""
    label_token_ids: tuple[int, ...] = ()
    """The M ids of the config"""
    label_log_probs: torch.Tensor | None = None
    """float32 (R, L, M): the log-probs of `label_token_ids`; minus infinity for an id that was ruled out"""
    support: SamplingSupport | None = None
    """The ids that each token was sampled from; None unless `sampling_support` was asked for."""
    forced_mask: torch.Tensor | None = None
    """int64 (R, L), 1 where a token was put there and not sampled; None: nowhere"""
    resumed_at: torch.Tensor | None = None
    """int64 (R,): how many of the row's tokens deliveries before the last one sampled, whose worker was gone; 0: it was
    not disturbed. None: no row was. See docs/partials.md for what that means to a seed."""

    sample_index: torch.Tensor | None = None
    """int64 (R,): which of its prompt's samples each row is; -1 where that is not known, as in failed rows. None unless
    `first_k` was asked for."""
    cut_lengths: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """By the number of the prompt: how long each sample that `first_k` cut is at least; 0: it had no token yet."""
    images: tuple[tuple[ImageRef, ...], ...] = ()
    """R tuples: the images of each row's prompt, by the digests of their files; empty if no row has any."""
    image_spans: tuple[tuple[ImageSpan, ...], ...] = ()
    """R tuples: where each of them lies in the row's prompt without padding, and which ids it replaced there."""
    routing: tuple[RowRouting | None, ...] = ()
    """R: where the routing of each row lies, which `client.routed_experts` reads; None in failed rows. Empty unless
    `routed_experts` was asked for."""

    row_tuples: ClassVar[tuple[str, ...]] = (*ROW_TUPLES, *SELDOM_TUPLES)

    @property
    def prompt_numbers(self) -> torch.Tensor:
        """`group_index`"""
        return self.group_index

    def numbered(self, prompts: list[int], numbers: torch.Tensor) -> dict[str, Any]:
        """See `RowBatch`."""
        errors = {number: self.errors[prompt] for number, prompt in enumerate(prompts) if prompt in self.errors}
        most = int(numbers.bincount().max()) if prompts else self.num_return_sequences
        cut = {number: self.cut_lengths[prompt] for number, prompt in enumerate(prompts) if prompt in self.cut_lengths}
        return {"group_index": numbers, "errors": errors, "num_return_sequences": most, "cut_lengths": cut}
