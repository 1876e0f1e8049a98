"""What a worker asks of an engine, and what it gets back: expanded prompts, completions, next tokens, scores."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas import GenerationConfig, RoutedExperts
from rollstream.schemas.wire.fields import FinishReason, VersionSpan
from rollstream.schemas.wire.images import ImageSpan
from rollstream.schemas.wire.routing import RoutingArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """A LoRA adapter that was found and checked. Its id belongs to no other adapter of this process."""

    name: str
    """`name@version`"""
    int_id: int
    path: Path
    sha256: str = field(default="", compare=False)
    """Digest of its config and weights; empty where it could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Picture:
    """An image, decoded."""

    sha256: str
    """Hex digest of its file: what engines tell images apart by."""
    pixels: NDArray[np.uint8]
    """(height, width, 3), RGB."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Expanded:
    """A prompt in which each image's placeholder has made room for what the engine computes of the image."""

    ids: list[int]
    spans: tuple[ImageSpan, ...]
    """One for each image, in their order."""
    fed: Any = None
    """What the engine made of the images, for requests to itself or to another replica. Nobody else looks into it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateRequest:
    """One group that has passed the checks: ids are within the vocabulary, lengths within the model's limit."""

    request_id: str
    prompt: list[int]
    config: GenerationConfig
    stop_token_ids: tuple[int, ...]
    """All EOS ids (unless ignored) and stop ids."""
    seed: int | None
    """The seed of sample 0; sample i uses seed + i. None: no seed."""
    adapter: Adapter | None
    first_sample: int = 0
    """Number of the request's first sample among those of its prompt. The seed is that sample's own already."""
    late_stop_ids: tuple[int, ...] = ()
    """Ids that end a completion once it has `min_new_tokens`; before, they may be sampled and do not end it."""
    goes_on: bool = False
    """Whether its caller goes on from where it was when a swap aborts it. The completions that had not ended then have
    the finish reason `abort`, and what was sampled until then; without this the engine starts all of them again."""
    images: Expanded | None = None
    """What the engine's `expand` gave; `prompt` begins with its ids. None: a prompt without images."""
    session: str | None = None
    """The conversation that it is a turn of: of several engines, one has its prefix in its cache."""
    is_followed: bool = False
    """Whether somebody reads its completions as they grow, so that an engine hands over a few tokens at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One continuation. `logprobs` has a number for each token, or is None if the config asked for none."""

    token_ids: NDArray[np.int32]
    """(L,), including the stop token or the tokens of the stop string."""
    logprobs: NDArray[np.float32] | None
    finish_reason: FinishReason
    stop_reason: int | str | None
    version_spans: tuple[VersionSpan, ...]
    """In order; their numbers of tokens add up to L."""
    text: str | None = None
    score: float | None = None
    spans_exact: bool = True
    """False if the engine cannot tell which version sampled which token; `version_spans` is then an estimate."""
    top_token_ids: NDArray[np.int32] | None = None
    """(L, K), the likeliest first, with `top_logprobs`; None unless K was asked for."""
    top_logprobs: NDArray[np.float32] | None = None
    """(L, K)"""
    label_logprobs: NDArray[np.float32] | None = None
    """(L, M), of the config's `label_token_ids` in their order; minus infinity for an id that was ruled out."""
    support_ids: NDArray[np.int32] | None = None
    """(sum of `support_lengths`,), position by position; None unless `sampling_support` was asked for."""
    support_lengths: NDArray[np.int32] | None = None
    """(L,)"""
    forced: NDArray[np.bool_] | None = None
    """(L,), true where a token was put there and not sampled; None: nowhere."""
    routed_experts: RoutingArray | None = None
    """(P + L - 1, layers, k), of the prompt's P tokens too; None unless the config asked for it."""
    routing: RoutedExperts | None = None
    """Where that lies in Redis, if an earlier delivery handed this one completion in."""
    cached_tokens: int | None = None
    """How many ids of the prompt the engine had in its prefix cache when the request began; None: it does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Partial:
    """A completion of a request that still runs, as far as the engine's caller has it. It shares no memory with it."""

    sample: int
    """Its index within the request."""
    completion: Completion
    """At least one token. Reasons count only once it has ended."""
    ended: bool
    """Whether it has ended, while others of the request run on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KvUse:
    """What of an engine's KV cache is in use, and by how many sequences."""

    used: float
    """The share of its blocks, 0 to 1; after a reset of running requests it begins at 0 again."""
    running: int
    """Sequences that are in the engine's steps."""
    waiting: int
    """Sequences that it was given and does not run, also those that it put back to wait."""
    preemptions: int
    """How often it has taken a running sequence's blocks away since it started: that one is computed again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NextTokens:
    """Candidates for the next token as (token, raw log-prob), likeliest first, and the version that gave them."""

    candidates: tuple[tuple[int, float], ...]
    version: int
    version_exact: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """One row whose tokens are scored from column `first` on. It has passed the checks: ids are in the vocabulary."""

    request_id: str
    token_ids: list[int]
    """2 to `max_model_len` ids."""
    first: int
    """1 or more: nothing comes before the token of column 0 that could say how likely it is."""
    top_logprobs: int
    """How many of the likeliest tokens of each column are wanted too; 0 for none."""
    adapter: Adapter | None
    images: Expanded | None = None
    """What the engine's `expand` gave; `token_ids` begin with its ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """How likely the tokens of a row are: the model's own log-probs, at temperature 1, whatever the worker's mode."""

    logprobs: NDArray[np.float32]
    """(L,) with L = ids of the row - `first`."""
    top_token_ids: NDArray[np.int32]
    """(L, K), likeliest first."""
    top_logprobs: NDArray[np.float32]
    """(L, K)"""
    version: int
    """The one version whose weights gave all of them."""
