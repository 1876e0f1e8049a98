"""Trainers' runs that nobody goes on with, and whose results fill Redis. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ..operations.queue_state import age
from ..runs.read_runs import RunSeen
from .finding import Finding, graded, some

ABANDONED_S = 86_400.0
"""A trainer that has not written for so long is gone, or its step takes a day."""


def run_findings(runs: Sequence[RunSeen], policy: str) -> list[Finding]:
    """One finding on runs, if there are any, and one on those that no trainer could open."""
    if not runs:
        return []
    left = [run for run in runs if run.silent_s > ABANDONED_S and run.state.outstanding]
    names = some(f"{run.name} ({len(run.state.outstanding)}, silent for {age(run.silent_s)})" for run in left)
    broken = [f"{run.name} ({name} {problem})" for run in runs for name, problem in run.state.unreadable.items()]
    abandoned = graded(
        "runs",
        f"{len(left)} keep results that nobody reads: {names}" if left else f"{len(runs)}, none is abandoned",
        warn=bool(left),
        remedy=f"start their trainers again, or rollstream runs --forget NAME --policy {policy}: results then expire",
    )
    unreadable = graded(
        "runs",
        f"cannot be opened: {some(broken)}",
        fail=True,
        remedy=f"something else wrote these fields: mend them, or rollstream runs --forget NAME --policy {policy}",
    )
    return [abandoned, unreadable] if broken else [abandoned]
