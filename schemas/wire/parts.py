"""A part of a group's answer: what one sample has so far. It outlives its worker, and another goes on from it."""

from __future__ import annotations

import hashlib
import json
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from ..generation.generation_config import MAX_CANDIDATES, MAX_SUPPORT_TIES, LogprobsFlavour
from .fields import AdapterName, BatchId, Count, Digest, FinishReason, Index, Shown, VersionSpan
from .messages import Job, Message
from .routing import RoutedExperts
from .tensors import Tensor, expect, expect_shape, expect_within

ENDINGS: frozenset[FinishReason] = frozenset({"stop", "length", "repetition"})
"""The finish reasons of a completion that nobody goes on with; one that was given up or cut has none."""


def content_of(job: Job, group: int) -> str:
    """The digest of what the samples of this group belong to: its prompt with its images, the config, the adapter and
    the row's seed.

    A part of other content is never continued. Which weights sample it is no content: the spans and `Part.weights`
    say that.
    """
    config = job.config.model_dump(mode="json", exclude_defaults=True)
    config["logit_bias"] = sorted(job.config.logit_bias.items())  # the order of a mapping is not content
    row = None if job.config.seed is None else group + job.seed_offset
    digest = hashlib.sha256(json.dumps([config, job.adapter, row], sort_keys=True).encode() + b"\0")
    digest.update(job.prompts[group - job.first_group].astype("<i4", copy=False).tobytes())
    for image in job.images[group - job.first_group] if job.images else ():
        digest.update(b"\0" + image.sha256.encode())
    return digest.hexdigest()


def expanded_of(ids: NDArray[np.int32]) -> str:
    """The digest of a prompt's ids (int32, (prompt_len,)) with the room that its images take: see `Part.expanded`."""
    return hashlib.sha256(ids.astype("<i4", copy=False).tobytes()).hexdigest()


class Part(Message):
    """What one sample of a group has so far: L tokens and what belongs to each of them."""

    kind: Literal["part"] = "part"
    batch_id: BatchId
    group: Index
    sample: Index
    """Its number among the prompt's samples; its seed is the prompt's plus this."""
    of: Digest
    """`content_of` the job and group that it belongs to."""
    token_ids: Tensor
    """int32 (L,)"""
    logprobs: Tensor | None = None
    """float32 (L,)"""
    logprobs_flavour: LogprobsFlavour | None = None
    version_spans: tuple[VersionSpan, ...]
    """In order; their numbers of tokens add up to L."""
    spans_exact: bool = True
    adapter: AdapterName | None = None
    weights: tuple[tuple[Index, Digest], ...] = ()
    """The digest of what sampled under each version of its spans that has one, the adapter's content included.

    A worker goes on only if it knows each of these numbers by the same digest.
    """
    finish_reason: FinishReason | None = None
    """`stop`, `length` or `repetition`; None: it is not finished."""
    stop_reason: int | str | None = None
    text: str | None = None
    """Only with `stop_strings`, and only if it is finished."""
    worker: Shown
    delivery: Count = 1
    """Number of the delivery that wrote it."""
    resumed_at: Index = 0
    """How many of its tokens deliveries before the writer's sampled."""
    top_token_ids: Tensor | None = None
    """int32 (L, K): the K likeliest at each position, as in `GroupResult`."""
    top_logprobs: Tensor | None = None
    """float32 (L, K)"""
    label_logprobs: Tensor | None = None
    """float32 (L, M): of the config's M `label_token_ids`."""
    support_ids: Tensor | None = None
    """int32 (sum of `support_lengths`,)"""
    support_lengths: Tensor | None = None
    """int32 (L,)"""
    forced: Tensor | None = None
    """bit (L,), true where a token was forced, not sampled; None: nowhere."""
    routing: RoutedExperts | None = None
    """Where the experts lie that each token went to, of this one sample; only if it is finished."""
    expanded: Digest | None = None
    """`expanded_of` the prompt that it follows; None: one without images.

    Workers with other processors of images make other prompts of the same job: their samples are never mixed.
    """
    processor: Digest | None = None
    """See `ImageSpan.processor`; None: a prompt without images."""

    def __len__(self) -> int:
        return self.token_ids.shape[0]

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to sample of it."""
        return self.finish_reason is not None

    @model_validator(mode="after")
    def _it_is_one_sample(self) -> Self:
        expect("token_ids", self.token_ids, "int32", 1)
        expect_within("token_ids", self.token_ids)
        if self.finish_reason is not None and self.finish_reason not in ENDINGS:
            raise ValueError(
                f"finish_reason {self.finish_reason!r}: a part is finished by {', '.join(sorted(ENDINGS))}"
            )
        if self.finish_reason is None and (self.stop_reason is not None or self.text is not None):
            raise ValueError("only a finished part has a stop_reason or a text")
        if not self.is_finished and not len(self):
            raise ValueError("a part that is not finished has at least one token")
        if any(tokens < 1 for _, tokens in self.version_spans) or sum(n for _, n in self.version_spans) != len(self):
            raise ValueError(f"version_spans do not add up to {len(self)} tokens")
        versions, sampled = [version for version, _ in self.weights], {version for version, _ in self.version_spans}
        if len(set(versions)) < len(versions) or not sampled.issuperset(versions):
            raise ValueError("weights name each version of the spans once, and no other")
        if self.resumed_at > len(self):
            raise ValueError("resumed_at is beyond the part's length")
        if self.routing is not None and not (self.is_finished and len(self.routing.rows) == 1):
            raise ValueError("only a finished part has routing, of one sample")
        return self

    @model_validator(mode="after")
    def _all_of_it_belongs_to_its_tokens(self) -> Self:
        length = len(self)
        if (self.logprobs is None) != (self.logprobs_flavour is None):
            raise ValueError("logprobs and logprobs_flavour come together")
        expect_shape("logprobs", self.logprobs, "float32", (length,))
        if self.logprobs is not None and np.isnan(self.logprobs.numpy()).any():
            raise ValueError("logprobs are numbers")
        expect_shape("forced", self.forced, "bit", (length,))
        if (self.top_token_ids is None) != (self.top_logprobs is None):
            raise ValueError("top_token_ids and top_logprobs come together")
        if self.top_token_ids is not None:
            _expect_columns("top_token_ids", self.top_token_ids, "int32", length)
            expect_within("top_token_ids", self.top_token_ids)
            expect_shape("top_logprobs", self.top_logprobs, "float32", self.top_token_ids.shape)
        if self.label_logprobs is not None:
            _expect_columns("label_logprobs", self.label_logprobs, "float32", length)
        if (self.support_ids is None) != (self.support_lengths is None):
            raise ValueError("support_ids and support_lengths come together")
        if self.support_ids is not None and self.support_lengths is not None:
            _check_support(self.support_ids, self.support_lengths, length)
        return self


def _expect_columns(name: str, tensor: Tensor, dtype: Literal["int32", "float32"], length: int) -> None:
    expect(name, tensor, dtype, 2)
    rows, columns = tensor.shape
    if rows != length or not 1 <= columns <= MAX_CANDIDATES:
        raise ValueError(f"{name}: expected ({length}, 1 to {MAX_CANDIDATES}), got {(rows, columns)}")


def _check_support(ids: Tensor, lengths: Tensor, length: int) -> None:
    expect("support_ids", ids, "int32", 1)
    expect_within("support_ids", ids)
    expect_shape("support_lengths", lengths, "int32", (length,))
    expect_within("support_lengths", lengths, MAX_CANDIDATES + MAX_SUPPORT_TIES)
    if int(lengths.numpy().sum(dtype=np.int64)) != ids.shape[0]:
        raise ValueError("support_lengths do not add up to support_ids")
