"""What the stub engine says of its tokens beside their ids: log-probs, candidates, labels and supports. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas.wire.fields import VersionSpan

from ..requests import GenerateRequest
from .stub_likelihoods import likelihoods


def columns(
    request: GenerateRequest, tokens: NDArray[np.int32], spans: tuple[VersionSpan, ...], vocab_size: int
) -> dict[str, Any]:
    """The fields of a `Completion` that hold log-probs."""
    config = request.config
    if config.logprobs is None:
        return {"logprobs": None}
    more = max(config.top_logprobs, len(config.label_token_ids))
    likely = _likely(request, tokens, spans, more)
    found: dict[str, Any] = {"logprobs": likely[:, 0]}
    if k := config.top_logprobs:
        found["top_token_ids"] = _near(tokens, k, vocab_size)
        found["top_logprobs"] = -np.sort(-likely[:, 1 : 1 + k])
    if m := len(config.label_token_ids):
        found["label_logprobs"] = likely[:, 1 : 1 + m]
    if config.sampling_support:
        ids = _near(tokens, config.top_k, vocab_size)
        lengths = 1 + tokens % ids.shape[1]
        found["support_ids"] = ids[np.arange(ids.shape[1]) < lengths[:, None]]
        found["support_lengths"] = lengths
    return found


def _near(tokens: NDArray[np.int32], k: int, vocab_size: int) -> NDArray[np.int32]:
    """(L, k): each token, and those that follow it in the vocabulary."""
    near: NDArray[np.int32] = (tokens[:, None] + np.arange(min(k, vocab_size), dtype=np.int32)) % vocab_size
    return near


def _likely(
    request: GenerateRequest, tokens: NDArray[np.int32], spans: tuple[VersionSpan, ...], more: int
) -> NDArray[np.float32]:
    """(L, 1 + more), those that the version which sampled each token gives when it scores the text."""
    adapter = request.adapter.name if request.adapter else ""
    row, first, parts = [*request.prompt, *tokens.tolist()], len(request.prompt), list[NDArray[np.float32]]()
    for version, length in spans:
        parts.append(likelihoods(row[: first + length], first, adapter, version, more))
        first += length
    return parts[0] if len(parts) == 1 else np.concatenate([np.zeros((0, 1 + more), np.float32), *parts])
