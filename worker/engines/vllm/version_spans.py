"""Which policy version sampled which tokens of a completion: as vLLM reports it, else estimated by the clock. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rollstream.schemas.wire.fields import VersionSpan

Spans = tuple[VersionSpan, ...]

MAX_SWAPS_REMEMBERED = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    """A swap to `version`, with its moments in monotonic seconds.

    The old version may have sampled until `paused_at`, and `version` from `resuming_at` on. So what ended before the
    former, or began after the latter, is certain, though the engine's own moments are not known.
    """

    asked_at: float
    """When the pause was asked for."""
    paused_at: float
    """When the pause was known to have taken effect."""
    resuming_at: float
    """Just before the engine was asked to go on."""
    version: int
    aborted: bool = False
    """Whether it aborted the requests in flight."""
    arrived: Mapping[tuple[str, int], int] = field(default_factory=dict, compare=False)
    """How many tokens of a running completion, by its request and its number there, had arrived before the engine went
    on: at least so many are of older versions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """When a request was handed to vLLM, with the version and the number of aborting swaps then."""

    at: float
    version: int
    aborts: int
    request_id: str = ""


@dataclass(slots=True, kw_only=True)
class Versions:
    """The version that samples new requests, and the swaps that led to it.

    The swapper alone changes it, one swap at a time: it says that requests are being aborted before it asks vLLM
    to, counts the abort when that is done, and calls `swapped` before the engine goes on.
    """

    now: int = 0
    swaps: deque[Swap] = field(default_factory=lambda: deque(maxlen=MAX_SWAPS_REMEMBERED))
    aborts: int = 0
    """How many swaps have aborted the requests in flight."""
    aborting: bool = False

    def swapped(self, swap: Swap) -> None:
        """Called before the engine is asked to go on: an answer may come before the engine's reply."""
        self.swaps.append(swap)
        self.now = swap.version

    def start(self, at: float, request_id: str = "") -> Start:
        """Called before a request is handed to vLLM."""
        return Start(at=at, version=self.now, aborts=self.aborts, request_id=request_id)

    def aborted(self, start: Start) -> bool:
        """Whether a swap has aborted the request with this start."""
        return self.aborting or self.aborts != start.aborts

    def crossed(self, start: Start) -> bool:
        """Whether the request with this start may have seen the weights of another version too."""
        return any(swap.paused_at > start.at for swap in self.swaps)

    def first(self, start: Start) -> int:
        """The version that sampled first for the request with this start, which has ended.

        It may have come while the engine was paused for a swap.
        """
        return _first(start, self.swaps)

    def spans(self, completion: Any, start: Start, until: float) -> tuple[Spans, bool]:
        """The spans of a vLLM `CompletionOutput` that arrived at `until`, and whether they are exact."""
        length = len(completion.token_ids)
        reported = reported_spans(completion, length)
        if reported is not None:
            return reported, True
        if completion.finish_reason == "abort":  # by the first of these: it has no token of a later version
            until = min([until, *(swap.asked_at for swap in self.swaps if swap.aborted and start.at < swap.paused_at)])
        return estimated_spans(length, start, until, self.swaps, completion.index)


def reported_spans(completion: Any, length: int) -> Spans | None:
    """vLLM's own spans (0.32 and later), without empty ones; None if it has none or they do not cover all tokens."""
    reported = getattr(completion, "weight_versions", None)
    if reported is None:
        return None
    try:
        spans = tuple((int(span.version), span.end - span.start) for span in reported if span.end > span.start)
    except ValueError:  # a label that is not ours
        return None
    return spans if sum(tokens for _, tokens in spans) == length else None


def estimated_spans(
    length: int, start: Start, until: float, swaps: Sequence[Swap], index: int = 0
) -> tuple[Spans, bool]:
    """Share the tokens out by the time that each version served; exact if only one can have sampled.

    What had arrived before a swap of the completion with this `index` is never a later version's.
    """
    crossed = [swap for swap in swaps if start.at < swap.paused_at and swap.resuming_at < until]
    version, since = _first(start, swaps), start.at
    served: list[tuple[int, float]] = []
    for swap in crossed:
        served.append((version, max(0.0, swap.asked_at - since)))
        version, since = swap.version, swap.resuming_at
    served.append((version, until - since))
    least = [swap.arrived.get((start.request_id, index), 0) for swap in crossed]
    return shared_out(length, served, least), not crossed


def _first(start: Start, swaps: Iterable[Swap]) -> int:
    done = [swap.version for swap in swaps if swap.paused_at <= start.at]
    return done[-1] if done else start.version


def shared_out(length: int, served: Sequence[tuple[int, float]], least: Sequence[int] = ()) -> Spans:
    """Share `length` tokens out over (version, seconds) in proportion: no empty span, equal neighbours joined.

    `least`: how many tokens all versions up to each of these, but the last, have at least.
    """
    total = sum(seconds for _, seconds in served)
    spans: list[VersionSpan] = []
    given, passed = 0, 0.0
    for (version, seconds), arrived in zip(served, [*least, *[0] * (len(served) - len(least))], strict=True):
        passed += seconds
        upto = min(length, max(arrived, round(length * passed / total) if total else length))
        if upto > given:
            before = spans.pop()[1] if spans and spans[-1][0] == version else 0
            spans.append((version, before + upto - given))
            given = upto
    return tuple(spans)
