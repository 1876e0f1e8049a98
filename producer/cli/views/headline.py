"""The first lines of `rollstream top`: in words, how the fleet is, and what else an operator should know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from rollstream.schemas.hashes.worker_report import WorkerState

from ...observe.fleet import Fleet, FleetWorker, Presence
from ...observe.refusals import refusals
from ...operations.queue_state import age
from .charts import about, amount, percent

_NEARLY_FULL = 0.8
"""The part of Redis' memory from which on it is worth a line."""
_STATES = {
    "late": ("is late", "are late"),
    WorkerState.PAUSED: ("is paused", "are paused"),
    WorkerState.STARTING: ("starts", "start"),
    WorkerState.DRAINING: ("drains", "drain"),
    "unknown": ("says nothing", "say nothing"),
}


class Level(StrEnum):
    """How much something matters; the value is its style on a terminal."""

    GOOD = "bold green"
    CALM = "bold cyan"
    WARN = "bold yellow"
    BAD = "bold red"


@dataclass(frozen=True, slots=True, kw_only=True)
class Jobs:
    """The jobs of all partitions."""

    waiting: int | None
    """None if those of a partition could not be counted."""
    running: int
    parked: int
    for_sessions: int = 0
    """Those of the parked ones that wait for their session's worker."""
    oldest_s: float | None

    @property
    def are_none(self) -> bool:
        """Whether there is nothing to do."""
        return self.waiting == 0 and not self.running and not self.parked


def jobs_of(fleet: Fleet) -> Jobs:
    """The jobs by what they wait for."""
    counts = [queue.waiting for queue in fleet.queues]
    oldest = [queue.oldest_waiting_s for queue in fleet.queues if queue.oldest_waiting_s is not None]
    parked = sum(queue.parked_jobs for queue in fleet.queues)
    return Jobs(
        waiting=None if None in counts else sum(count or 0 for count in counts),
        running=max(0, sum(queue.pending for queue in fleet.queues) - parked),
        parked=parked,
        for_sessions=sum(queue.for_sessions for queue in fleet.queues),
        oldest_s=max(oldest, default=None),
    )


def headline(fleet: Fleet) -> tuple[Level, str]:
    """How the fleet is, in a sentence or two."""
    jobs = jobs_of(fleet)
    there = [worker for worker in fleet.workers if worker.presence is not Presence.GONE]
    serving = [worker for worker in there if _state(worker) == WorkerState.SERVING]
    if fleet.paused:
        since = "" if fleet.paused_s_ago is None else f" since {age(fleet.paused_s_ago)}"
        return Level.WARN, f"Paused by an operator{since}: {_wait(jobs)}{_standing_by(there)}."
    if not there:
        return _without_workers(fleet, jobs)
    if serving:
        return _at_work(fleet, serving, there, jobs)
    states = Counter(map(_state, there))
    level = Level.CALM if set(states) == {WorkerState.STARTING} else Level.BAD
    how = [f"{states[state]} {_verb(words, states[state])}" for state, words in _STATES.items() if states[state]]
    return level, f"No worker takes jobs: {listed(how)}. {_capital(_wait(jobs))}."


def _state(worker: FleetWorker) -> str:
    if worker.presence is Presence.LATE:
        return "late"
    return worker.report.state if worker.report.state in set(WorkerState) else "unknown"


def _without_workers(fleet: Fleet, jobs: Jobs) -> tuple[Level, str]:
    if jobs.are_none:
        empty = not fleet.num_batches and not fleet.workers
        return Level.CALM, (
            "Nothing here yet: no worker, and no batch was submitted." if empty else "No worker, and no job waits."
        )
    oldest = "" if jobs.oldest_s is None else f", the oldest for {age(jobs.oldest_s)}"
    held = f", {amount(jobs.running)} were taken by workers that are gone" if jobs.running and jobs.waiting else ""
    return Level.BAD, f"No worker: {_wait(jobs)}{oldest}{held}."


def _at_work(fleet: Fleet, serving: list[FleetWorker], there: list[FleetWorker], jobs: Jobs) -> tuple[Level, str]:
    every = len(serving) == len(there) == len(fleet.workers)
    who = many(len(serving), "worker") if every else f"{len(serving)} of {many(len(fleet.workers), 'worker')}"
    told = f"{who} {_verb(('serves', 'serve'), len(serving))} {_versions(serving)}"
    level = Level.GOOD if every else Level.WARN
    if jobs.are_none:
        return level, f"{told}. There is nothing to do."
    work = f", about {about(fleet.backlog_s)} of work" if fleet.backlog_s else ""
    return level, f"{told}, {amount(fleet.tokens_per_s)} tokens/s, {_wait(jobs)}{work}."


def _versions(workers: Iterable[FleetWorker]) -> str:
    found = {one.report.policy_version for one in workers if one.report.policy_version is not None}
    if not found:
        return "an unknown version"
    if len(found) > 1:
        return f"versions {listed([str(version) for version in sorted(found, reverse=True)])}"
    return f"version {found.pop()}" if found != {0} else "the model that they booted with"


def _wait(jobs: Jobs) -> str:
    if jobs.waiting is None:
        return "an unknown number of jobs waits"
    if jobs.waiting:
        return f"{many(jobs.waiting, 'job')} {_verb(('waits', 'wait'), jobs.waiting)}"
    if jobs.running:
        return f"{many(jobs.running, 'job')} {_verb(('runs', 'run'), jobs.running)}, none waits"
    parked = f"{many(jobs.parked, 'job')} {_verb(('waits', 'wait'), jobs.parked)} for"
    if jobs.for_sessions:
        return f"{parked} their session's worker{' or a newer version' * (jobs.for_sessions < jobs.parked)}"
    return f"{parked} a newer version" if jobs.parked else "no job waits"


def _standing_by(workers: list[FleetWorker]) -> str:
    if not workers:
        return ", and there is no worker"
    return f", {many(len(workers), 'worker')} {_verb(('stands', 'stand'), len(workers))} by"


def notes(fleet: Fleet) -> Iterator[tuple[Level, str]]:
    """What no table shows: a Redis that is nearly full, why versions are refused, what could not be read."""
    if fleet.redis_memory and fleet.redis_memory_limit:
        used = fleet.redis_memory / fleet.redis_memory_limit
        if used > _NEARLY_FULL:
            told = percent(fleet.redis_memory, fleet.redis_memory_limit)
            yield Level.BAD, f"Redis has used {told} of its memory; when it is full, workers pause."
    if ahead := max((queue.ids_ahead_s for queue in fleet.queues), default=0.0):
        yield Level.WARN, f"Redis' clock was set back by {age(ahead)}: ages of jobs are unknown until it has caught up."
    for (version, why), names in refusals(fleet.workers).items():
        yield Level.BAD, f"Version {version} is refused by {listed(names)}: {why}"
    if fleet.problems:
        more = f", and {len(fleet.problems) - 1} more" if len(fleet.problems) > 1 else ""
        yield Level.WARN, f"Could not be read: {fleet.problems[0]}{more}"


def many(number: int, one: str, several: str = "") -> str:
    """`1 job`, `1,240 jobs`."""
    return f"{amount(number)} {one if number == 1 else several or f'{one}s'}"


def listed(names: list[str], most: int = 3) -> str:
    """`a`, `a and b`, `a, b and 3 more`."""
    shown = names[: most - 1] if len(names) > most else names
    parts = [*shown, f"{len(names) - len(shown)} more"] if len(shown) < len(names) else shown
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _verb(words: tuple[str, str], number: int) -> str:
    return words[0] if number == 1 else words[1]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
