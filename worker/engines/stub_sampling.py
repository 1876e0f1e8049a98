"""One completion of the stub engine while it is sampled: what it has, and what it would have by the clock."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas.wire.fields import FinishReason, VersionSpan

from ..requests import Completion, GenerateRequest, Partial
from .stub_columns import columns
from .stub_routing import routing


def _no_tokens() -> NDArray[np.int32]:
    return np.zeros(0, np.int32)


@dataclass(slots=True, kw_only=True)
class Sampling:
    """Sample number `sample` of a request. The task that samples it changes it, and anybody may look."""

    request: GenerateRequest
    sample: int
    vocab_size: int
    _tokens: NDArray[np.int32] = field(default_factory=_no_tokens)
    _spans: tuple[VersionSpan, ...] = ()
    _coming: NDArray[np.int32] = field(default_factory=_no_tokens)
    """What comes next if no swap does, one by one since `_since`."""
    _version: int = 0
    _since: float = 0.0
    _ended: Completion | None = None

    @property
    def length(self) -> int:
        """How many tokens are certain."""
        return len(self._tokens)

    def begin(self, version: int, coming: NDArray[np.int32], now: float) -> None:
        """From `now` on, `version` samples `coming`."""
        self._version, self._coming, self._since = version, coming, now

    def spend(self, tokens: int) -> None:
        """So many of those were sampled; the rest will not come."""
        self._tokens, self._spans = self._with(tokens)
        self._coming = _no_tokens()

    def start_again(self) -> None:
        """Forget all tokens."""
        self._tokens, self._spans = _no_tokens(), ()

    def end(self, reason: FinishReason | None = None) -> Completion:
        """The completion; `reason` unless it follows from the tokens."""
        completion = self._completion(self._tokens, self._spans, reason)
        if self.request.config.routed_experts:
            completion = replace(completion, routed_experts=routing(self.request, completion))
        self._ended = completion
        return completion

    def partial(self, now: float, tokens_per_s: float) -> Partial | None:
        """As far as it is at `now`; None without a token. 0 tokens/s: as fast as it can."""
        if self._ended is not None:
            return Partial(sample=self.sample, completion=self._ended, ended=True)
        spent = min(len(self._coming), int((now - self._since) * tokens_per_s))
        tokens, spans = self._with(spent)
        if not len(tokens):
            return None
        return Partial(sample=self.sample, completion=self._completion(tokens, spans, "length"), ended=False)

    def _with(self, tokens: int) -> tuple[NDArray[np.int32], tuple[VersionSpan, ...]]:
        spans = (*self._spans, (self._version, tokens)) if tokens else self._spans
        coming = self._coming[:tokens]
        return np.concatenate((self._tokens, coming)) if len(self._tokens) else coming, spans

    def _completion(
        self, tokens: NDArray[np.int32], spans: tuple[VersionSpan, ...], reason: FinishReason | None
    ) -> Completion:
        stops = reason is None and len(tokens) > self.request.config.min_new_tokens
        stopped = stops and int(tokens[-1]) in self.request.stop_token_ids
        return Completion(
            token_ids=tokens,
            finish_reason=reason or ("stop" if stopped else "length"),
            stop_reason=int(tokens[-1]) if stopped else None,
            version_spans=spans,
            **columns(self.request, tokens, spans, self.vocab_size),
        )
