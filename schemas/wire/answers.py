"""The answer to a group: its completions or why there are none; and the message that all groups have theirs."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Literal, NoReturn, Self

import numpy as np
from pydantic import Field, model_validator

from ..generation.generation_config import MAX_CANDIDATES, MAX_SUPPORT_TIES, LogprobsFlavour
from .completions import Completion, completions_of
from .fields import AdapterName, BatchId, Count, FinishReason, Index, Shown, Traceparent, VersionSpan
from .images import Images, ImageSpans, check_spans
from .messages import Message
from .routing import RoutedExperts, check_rows
from .tensors import Tensor, expect, expect_shape, expect_within
from .turns import Turn, check_earlier_completions


class ErrorCode(StrEnum):
    """Why a group has no completions. The codes up to UNSUPPORTED are faults of the data and never retried."""

    UNREADABLE_JOB = "unreadable_job"
    INVALID_CONFIG = "invalid_config"
    EMPTY_PROMPT = "empty_prompt"
    TOKEN_OUT_OF_VOCABULARY = "token_out_of_vocabulary"  # noqa: S105 - a sampling token, no secret
    TOO_LONG = "too_long"
    IMAGE_MISSING = "image_missing"
    IMAGE_REFUSED = "image_refused"
    UNKNOWN_ADAPTER = "unknown_adapter"
    ADAPTER_REFUSED = "adapter_refused"
    NEEDS_TOKENIZER = "needs_tokenizer"
    ENGINE_REFUSED = "engine_refused"
    UNSUPPORTED = "unsupported"
    TOO_MANY_DELIVERIES = "too_many_deliveries"
    CANCELLED = "cancelled"
    QUEUE_DEADLINE = "queue_deadline"
    RUN_DEADLINE = "run_deadline"
    TOO_STALE = "too_stale"
    NOT_NEEDED = "not_needed"
    SAMPLES_MISSING = "samples_missing"
    TURN_MISSING = "turn_missing"


class GroupError(Message):
    """The answer to a group that cannot be generated."""

    kind: Literal["error"] = "error"
    batch_id: BatchId
    group: Index
    code: str = Field(pattern=r"^[a-z_]{1,64}$")
    """An `ErrorCode`; a newer worker may know more of them."""
    field: Shown
    """What is at fault: `prompt`, a config's field, `adapter`, `job`."""
    message: Shown
    """What is wrong, where, and what to do."""
    worker: Shown
    prompt: Tensor | None = None
    """int32 (prompt_len,), if the worker could read it."""

    @property
    def completions(self) -> NoReturn:
        """Raises `TypeError`, so that no failed group is rewarded as an empty one."""
        raise self._has_none()

    def __iter__(self) -> NoReturn:  # pydantic's own would give names and values
        raise self._has_none()

    def _has_none(self) -> TypeError:
        return TypeError(f"group {self.group} failed and has no completions: {self.code}: {self.field}: {self.message}")

    @model_validator(mode="after")
    def _prompt_is_flat(self) -> Self:
        if self.prompt is not None:
            expect("prompt", self.prompt, "int32", 1)
        return self


class GroupResult(Message):
    """One prompt and its n completions, padded to the longest of them: L columns.

    `completions` has them one by one, without padding; `len(group)` is n, and a loop over the group gives the same.
    """

    kind: Literal["group"] = "group"
    batch_id: BatchId
    group: Index
    prompt: Tensor
    """int32 (prompt_len,), each image's placeholder expanded to the ids that the model saw."""
    token_ids: Tensor
    """int32 (n, L), zeros after a completion's length."""
    lengths: Tensor
    """int32 (n,)"""
    response_mask: Tensor
    """bit (n, L), true where a token was sampled: column < length."""
    logprobs: Tensor | None = None
    """float32 (n, L), zeros after a completion's length."""
    logprobs_flavour: LogprobsFlavour | None = None
    finish_reasons: tuple[FinishReason, ...]
    stop_reasons: tuple[int | str | None, ...]
    """The stop token id or stop string that ended it; None when cut by length."""
    texts: tuple[str, ...] | None = None
    """Only with `stop_strings`: the decoded completion, cut as `include_stop_str_in_output` says."""
    scores: Tensor | None = None
    """float32 (n,), beam search only."""
    version_spans: tuple[tuple[VersionSpan, ...], ...]
    spans_exact: bool = True
    adapter: AdapterName | None = None
    worker: Shown
    delivery: Count = 1
    """Number of the delivery of the job that answered."""
    queued_s: float
    """Seconds between submit and admission, by two machines' clocks."""
    generate_s: float
    forced_mask: Tensor | None = None
    """bit (n, L), true where a token was forced, not sampled; None: nowhere."""
    top_token_ids: Tensor | None = None
    """int32 (n, L, K): the K likeliest at each position, the likeliest first; zeros after a completion's length.

    If fewer than K could be sampled there, the others are ids with a log-prob of minus infinity."""
    top_logprobs: Tensor | None = None
    """float32 (n, L, K), the log-probs of `top_token_ids`."""
    support_ids: Tensor | None = None
    """int32 (sum of `support_lengths`,): the ids that could be sampled at each position, the likeliest first,
    position by position."""
    support_lengths: Tensor | None = None
    """int32 (n, L): how many ids of `support_ids` belong to each position; zeros after a completion's length."""
    sample_index: Tensor | None = None
    """int32 (n,): the sample number of each completion, if some samples of the prompt are not here."""
    cut_lengths: Tensor | None = None
    """int32 (c,): how long each of the prompt's completions that were cut is at least: the tokens that it had, or the
    length of the longest completion here if it had fewer; if it had ended, its length. 0: none of its tokens is known.
    """
    resumed_at: Tensor | None = None
    """int32 (n,): how many tokens of each completion earlier deliveries sampled; this one sampled the rest."""
    trace: Traceparent | None = None
    """W3C trace context of the worker's span."""
    label_logprobs: Tensor | None = None
    """float32 (n, L, M): log-probs of the config's M `label_token_ids`; minus infinity for an id that was ruled out."""
    images: Images = ()
    """The prompt's images."""
    image_spans: ImageSpans = ()
    """Where each of them lies in `prompt`."""
    continued: Turn | None = None
    """The turn that the group goes on from; `prompt` then begins with that turn's prompt and completion."""
    earlier_completions: Tensor | None = None
    """int32 (t, 2): offset and length of each completion of earlier turns in `prompt`, the oldest first; the last is
    that of `continued`."""
    cached_tokens: Index | None = None
    """How many ids of the prompt the engine had in its prefix cache; None: it does not say."""
    routing: RoutedExperts | None = None
    """Where the experts lie that each token went to; None unless `routed_experts` asked for them."""

    @property
    def prefix_length(self) -> int:
        """How many ids of `prompt` are the earlier turn's, prompt and completion; the submitted ones follow."""
        return 0 if self.earlier_completions is None else int(self.earlier_completions.numpy()[-1].sum())

    @property
    def completions(self) -> tuple[Completion, ...]:
        """Each has its ids, log-probs, text, finish reason and length. Made at each call: keep what you use twice."""
        return completions_of(self)

    @property
    def prompt_ids(self) -> list[int]:
        """The prompt without padding."""
        return self.prompt.tolist()

    def __len__(self) -> int:
        return self.token_ids.shape[0]

    def __iter__(self) -> Iterator[Completion]:  # type: ignore[override] # pydantic's own would give names and values
        return iter(self.completions)

    @model_validator(mode="after")
    def _shapes_agree(self) -> Self:
        expect("prompt", self.prompt, "int32", 1)
        expect("token_ids", self.token_ids, "int32", 2)
        n, width = self.token_ids.shape
        if n < 1:  # no bytes would then stand for any width
            raise ValueError("a group has at least one completion")
        expect_shape("lengths", self.lengths, "int32", (n,))
        expect_shape("response_mask", self.response_mask, "bit", (n, width))
        expect_shape("logprobs", self.logprobs, "float32", (n, width))
        expect_shape("scores", self.scores, "float32", (n,))
        if {len(self.finish_reasons), len(self.stop_reasons), len(self.version_spans)} != {n}:
            raise ValueError(f"finish_reasons, stop_reasons and version_spans must have {n} items each")
        if self.texts is not None and len(self.texts) != n:
            raise ValueError(f"texts must have {n} items")
        if (self.logprobs is None) != (self.logprobs_flavour is None):
            raise ValueError("logprobs and logprobs_flavour come together")
        lengths = self.lengths.numpy()
        listed = lengths.tolist()
        if min(listed, default=0) < 0 or max(listed, default=0) > width:
            raise ValueError(f"lengths must lie within 0 and {width}")
        if Tensor.of(np.arange(width) < lengths[:, None]).data != self.response_mask.data:
            raise ValueError("response_mask does not follow from lengths")
        return self

    @model_validator(mode="after")
    def _what_few_have_agrees(self) -> Self:
        check_spans(self.images, self.image_spans, self.prompt.shape[0])
        if self.forced_mask is not None:
            self._check_forced(self.forced_mask)
        if (self.top_token_ids is None) != (self.top_logprobs is None):
            raise ValueError("top_token_ids and top_logprobs come together")
        if self.top_token_ids is not None:
            self._check_candidates(self.top_token_ids)
        if (self.support_ids is None) != (self.support_lengths is None):
            raise ValueError("support_ids and support_lengths come together")
        if self.support_ids is not None and self.support_lengths is not None:
            self._check_support(self.support_ids, self.support_lengths)
        if self.label_logprobs is not None:
            self._check_labels(self.label_logprobs)
        if self.sample_index is not None:
            self._check_sample_index(self.sample_index)
        if self.cut_lengths is not None:
            expect("cut_lengths", self.cut_lengths, "int32", 1)
            expect_within("cut_lengths", self.cut_lengths)
        if self.resumed_at is not None:
            self._check_resumed_at(self.resumed_at)
        return self

    @model_validator(mode="after")
    def _earlier_turns_are_in_the_prompt(self) -> Self:
        check_earlier_completions(self.earlier_completions, self.prompt, self.continued)
        return self

    @model_validator(mode="after")
    def _routing_is_of_its_tokens(self) -> Self:
        if self.routing is not None:
            check_rows(self.routing, len(self.prompt), self.lengths.tolist())
        return self

    def _check_forced(self, forced: Tensor) -> None:
        expect_shape("forced_mask", forced, "bit", self.token_ids.shape)
        if (forced.numpy() & ~self.response_mask.numpy()).any():
            raise ValueError("forced_mask is true where there is no token")

    def _check_candidates(self, ids: Tensor) -> None:
        expect("top_token_ids", ids, "int32", 3)
        k = ids.shape[2]
        if not 1 <= k <= MAX_CANDIDATES:
            raise ValueError(f"top_token_ids: K is 1 to {MAX_CANDIDATES}, not {k}")
        expect_shape("top_token_ids", ids, "int32", (*self.token_ids.shape, k))
        expect_shape("top_logprobs", self.top_logprobs, "float32", (*self.token_ids.shape, k))
        expect_within("top_token_ids", ids)

    def _check_labels(self, logprobs: Tensor) -> None:
        expect("label_logprobs", logprobs, "float32", 3)
        expect_shape("label_logprobs", logprobs, "float32", (*self.token_ids.shape, m := logprobs.shape[2]))
        if not 1 <= m <= MAX_CANDIDATES:
            raise ValueError(f"label_logprobs: M is 1 to {MAX_CANDIDATES}, not {m}")

    def _check_support(self, ids: Tensor, lengths: Tensor) -> None:
        expect("support_ids", ids, "int32", 1)
        expect_within("support_ids", ids)
        expect_shape("support_lengths", lengths, "int32", self.token_ids.shape)
        expect_within("support_lengths", lengths, MAX_CANDIDATES + MAX_SUPPORT_TIES)
        of_each = lengths.numpy()
        if of_each[~self.response_mask.numpy()].any():
            raise ValueError("support_lengths is not 0 where there is no token")
        if int(of_each.sum(dtype=np.int64)) != ids.shape[0]:
            raise ValueError("support_lengths do not add up to support_ids")

    def _check_sample_index(self, index: Tensor) -> None:
        expect_shape("sample_index", index, "int32", (len(self),))
        expect_within("sample_index", index)
        if len(set(index.tolist())) != len(self):
            raise ValueError("sample_index names a sample twice")

    def _check_resumed_at(self, resumed_at: Tensor) -> None:
        expect_shape("resumed_at", resumed_at, "int32", (len(self),))
        expect_within("resumed_at", resumed_at)
        if (resumed_at.numpy() > self.lengths.numpy()).any():
            raise ValueError("resumed_at is beyond the completion's length")


class Sealed(Message):
    """Follows a batch's last group: nothing more will come."""

    kind: Literal["sealed"] = "sealed"
    batch_id: BatchId
    num_groups: Count
