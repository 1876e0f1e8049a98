"""Which policy version sampled which tokens of a completion: as vLLM says, or as well as the clock can tell. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from schemas.messages import VersionSpan

Spans = tuple[VersionSpan, ...]

MAX_SWAPS_REMEMBERED = 256


@dataclass(frozen=True, slots=True)
class Swap:
    """Nothing was sampled between `paused_at` and `resumed_at` (monotonic seconds), and `version` from then on."""

    paused_at: float
    resumed_at: float
    version: int


@dataclass(frozen=True, slots=True)
class Start:
    """When a request was handed to vLLM, and what was true then."""

    at: float
    version: int
    aborts: int


@dataclass(slots=True)
class Versions:
    """The version that new requests are sampled with, and how the engine came to it."""

    now: int = 0
    swaps: deque[Swap] = field(default_factory=lambda: deque(maxlen=MAX_SWAPS_REMEMBERED))
    aborts: int = 0
    """Swaps that have aborted what was in flight."""
    aborting: bool = False

    def start(self, at: float) -> Start:
        """Taken before a request is handed over."""
        return Start(at, self.now, self.aborts)

    def aborted(self, start: Start) -> bool:
        """Whether a swap aborted what started at `start`."""
        return self.aborting or self.aborts != start.aborts

    def spans(self, completion: Any, start: Start, until: float) -> tuple[Spans, bool]:
        """The spans of a vLLM `CompletionOutput` that came at `until`, and whether they are exact."""
        length = len(completion.token_ids)
        reported = reported_spans(completion, length)
        return (reported, True) if reported is not None else estimated_spans(length, start, until, self.swaps)


def reported_spans(completion: Any, length: int) -> Spans | None:
    """vLLM's own (0.32 and later), without empty ones; None where it has none or they do not cover the completion."""
    reported = getattr(completion, "weight_versions", None)
    if reported is None:
        return None
    try:
        spans = tuple((int(span.version), span.end - span.start) for span in reported if span.end > span.start)
    except ValueError:  # a label that is not ours
        return None
    return spans if sum(tokens for _, tokens in spans) == length else None


def estimated_spans(length: int, start: Start, until: float, swaps: Sequence[Swap]) -> tuple[Spans, bool]:
    """Tokens shared out by the time that each version served; exact where only one did."""
    crossed = [swap for swap in swaps if start.at < swap.paused_at and swap.resumed_at < until]
    # One handed over while the engine was paused waited for the version after it.
    waited = [swap.version for swap in swaps if swap.paused_at <= start.at < swap.resumed_at]
    versions = [waited[-1] if waited else start.version, *(swap.version for swap in crossed)]
    began = [start.at, *(swap.resumed_at for swap in crossed)]
    ended = [*(swap.paused_at for swap in crossed), until]
    served = [max(0.0, end - begin) for begin, end in zip(began, ended, strict=True)]
    total = sum(served)
    spans: list[VersionSpan] = []
    given = 0
    for version, upto in zip(versions, _running(served), strict=True):
        share = (round(length * upto / total) if total else 0) - given
        given += share
        spans.append((version, share))
    version, last = spans[-1]
    spans[-1] = version, last + length - given
    return merged(spans), len(set(versions)) == 1


def merged(spans: Sequence[VersionSpan]) -> Spans:
    """Without empty ones, neighbours of one version as one."""
    found: list[VersionSpan] = []
    for version, tokens in spans:
        if found and found[-1][0] == version:
            found[-1] = version, found[-1][1] + tokens
        elif tokens:
            found.append((version, tokens))
    return tuple(found)


def _running(values: Sequence[float]) -> list[float]:
    return [sum(values[: i + 1]) for i in range(len(values))]
