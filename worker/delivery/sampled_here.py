"""What this worker must answer for: tokens that came out of Redis were asked about when they went in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rollstream.schemas import GroupResult, GroupScores
from rollstream.schemas.wire.fields import VersionSpan


def after(spans: Iterable[VersionSpan], brought: int) -> list[VersionSpan]:
    """The spans without their first `brought` tokens, which others sampled."""
    found: list[VersionSpan] = []
    for version, tokens in spans:
        if tokens > brought:
            found.append((version, tokens - brought))
        brought = max(0, brought - tokens)
    return found


def sampled_here(answer: GroupResult | GroupScores) -> Iterator[list[VersionSpan]]:
    """The spans of each completion that this worker's engine sampled, by the answer's `resumed_at`."""
    resumed = answer.resumed_at.tolist() if isinstance(answer, GroupResult) and answer.resumed_at is not None else []
    for number, spans in enumerate(answer.version_spans):
        yield after(spans, resumed[number] if resumed else 0)
