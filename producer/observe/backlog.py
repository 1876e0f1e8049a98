"""How much work is queued, in seconds: for people, for Prometheus, and for whatever starts and stops workers. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rollstream.schemas.hashes.history import Rate

ASSUMED_TOKENS_PER_S = 1000.0
"""Tokens a second of one worker until one was measured: rather too few, so that too many workers start, not too few."""
LEAST_S = 1.0
"""What counts while a group has no answer and no token is asked for, as with rows to score: a worker must be there."""
UNCOUNTED = "the totals of the queue are not those that workers and producers write; rollstream doctor says more"
_DIGITS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """All that is queued and has no answer yet, jobs that run included."""

    backlog_seconds: float
    """Seconds in which the workers there are, or one if there is none, answer all of it; above 0 while any is open."""
    worker_seconds: float
    """The same for one worker. It does not change when workers come and go, so it says how many are needed."""
    queued_tokens: int
    """Tokens that will probably be generated."""
    asked_tokens: int
    """The most that may be generated."""
    tokens_per_second_per_worker: float
    measured: bool
    """Whether a worker measured that speed; if not, it is assumed."""
    workers: int
    """Workers that answer jobs; none that starts or drains."""
    open_groups: int
    waiting_jobs: int
    pending_jobs: int
    """Jobs that a worker has taken, and parked ones."""

    def json(self, policy: str, *, paused: bool) -> dict[str, Any]:
        """What `rollstream backlog --json` and the exporter say."""
        return {"policy": policy, **asdict(self), "paused": paused}


def backlog_of(
    rate: Rate, *, tokens: int, groups: int, waiting: int, pending: int, workers: int, assumed: float
) -> Backlog:
    """The backlog of a policy with so many open `tokens` and `groups`, in jobs that are `waiting` or `pending`.

    What is open in no job at all cannot be answered by any worker (an entry was removed by hand), and counts as none.
    """
    is_open = groups > 0 and waiting + pending > 0
    speed = assumed if rate.tokens_per_s is None else rate.tokens_per_s
    expected = rate.expected_tokens(tokens) if is_open else 0.0
    seconds = expected / speed or (LEAST_S if is_open else 0.0)
    return Backlog(
        backlog_seconds=_rounded(seconds / max(1, workers)),
        worker_seconds=_rounded(seconds),
        queued_tokens=round(expected),
        asked_tokens=tokens if is_open else 0,
        tokens_per_second_per_worker=speed,
        measured=rate.tokens_per_s is not None,
        workers=workers,
        open_groups=groups,
        waiting_jobs=waiting,
        pending_jobs=pending,
    )


def _rounded(seconds: float) -> float:
    """By digits and not by places, for what is above 0 must not become 0: at 0 the last worker is stopped."""
    return float(f"{seconds:.{_DIGITS}g}")
