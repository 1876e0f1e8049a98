"""Which policy version sampled which tokens of a completion: as vLLM says, or as well as the clock can tell. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rollstream.schemas.wire.fields import VersionSpan

Spans = tuple[VersionSpan, ...]

MAX_SWAPS_REMEMBERED = 256


@dataclass(frozen=True, slots=True)
class Swap:
    """One that brought `version`, by the moments (monotonic seconds) between which the engine did what it was asked.

    The old version may have sampled until `paused_at`, `version` from `resuming_at` on: what came before the one or
    after the other is sure, whenever the engine itself stopped and went on.
    """

    asked_at: float
    """When the pause was asked for."""
    paused_at: float
    """When it was known to have taken effect."""
    resuming_at: float
    """Before the engine was asked to go on."""
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

    def swapped(self, swap: Swap) -> None:
        """Taken before the engine is asked to go on: an answer may be here before it is known that the engine does."""
        self.swaps.append(swap)
        self.now = swap.version

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
    """Tokens shared out by the time that each version served; exact where only one can have sampled any."""
    done = [swap.version for swap in swaps if swap.paused_at <= start.at]
    crossed = [swap for swap in swaps if start.at < swap.paused_at and swap.resuming_at < until]
    version, since = done[-1] if done else start.version, start.at
    served: list[tuple[int, float]] = []
    for swap in crossed:
        served.append((version, max(0.0, swap.asked_at - since)))
        version, since = swap.version, swap.resuming_at
    served.append((version, until - since))
    return shared_out(length, served), not crossed


def shared_out(length: int, served: Sequence[tuple[int, float]]) -> Spans:
    """`length` tokens over (version, seconds), in proportion: no empty span, neighbours of one version as one."""
    total = sum(seconds for _, seconds in served)
    spans: list[VersionSpan] = []
    given, passed = 0, 0.0
    for version, seconds in served:
        passed += seconds
        upto = round(length * passed / total) if total else length
        if upto > given:
            before = spans.pop()[1] if spans and spans[-1][0] == version else 0
            spans.append((version, before + upto - given))
            given = upto
    return tuple(spans)
