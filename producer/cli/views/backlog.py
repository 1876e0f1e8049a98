"""`rollstream backlog` in lines."""

from __future__ import annotations

from ...observe.backlog import Backlog
from ...observe.fleet import Fleet
from .charts import amount
from .headline import many


def backlog_lines(fleet: Fleet, found: Backlog) -> list[str]:
    """What is queued, how long it takes, and what that rests on."""
    jobs = f"{many(found.waiting_jobs, 'job')} waiting, {amount(found.pending_jobs)} taken"
    if not found.backlog_seconds:
        return [f"policy {fleet.policy}: nothing is queued ({jobs})"]
    who = many(found.workers, "worker") if found.workers else "one worker (there is none)"
    speed = f"{amount(found.tokens_per_second_per_worker)} tokens/s each, {'measured' if found.measured else 'assumed'}"
    lines = [
        f"policy {fleet.policy}: {found.backlog_seconds:,.1f} s of work for {who}",
        f"{amount(found.queued_tokens)} tokens ({amount(found.asked_tokens)} at most) at {speed}; {jobs}",
    ]
    if not found.measured:
        lines.append("no worker has measured its speed yet, which takes a minute of work: see --assumed-tokens-per-s")
    return lines + ["the queue is paused: no worker takes jobs"] * fleet.paused
