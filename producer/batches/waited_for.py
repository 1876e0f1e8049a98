"""What a batch waits for, as a sentence made from facts in Redis. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import partial

from rollstream.schemas.hashes.worker_report import WorkerState
from rollstream.schemas.parked import ParkedFor, ParkedForWorker, is_parked

_MOST_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Reporting:
    """One live worker, as it reports itself. All texts are printable."""

    name: str
    state: str = WorkerState.SERVING
    paused_for: tuple[str, ...] = ()
    version: int = 0
    """The policy version that it serves."""
    newest: int = 0
    """The newest active version that it knows."""
    problem: str = ""
    """Why it refused the newest version; empty if it did not."""
    partitions: int | None = None
    """How many partitions it reads, from 0 on; None if it does not say."""
    model: str = ""

    @property
    def takes_jobs(self) -> bool:
        """Whether it takes jobs now, if it has room."""
        return self.state == WorkerState.SERVING


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchFacts:
    """A batch, its queue and the workers at one moment."""

    policy: str
    partitions: int
    """The client's number of partitions."""
    partition: int
    """The batch's partition."""
    workers: Sequence[Reporting] = ()
    elsewhere: Sequence[str] = ()
    """Other policies that live workers serve; asked for only if no worker serves this one."""
    paused: bool = False
    newest: int = 0
    """The newest announced policy version, active or not."""
    jobs: int = 1
    waiting: int = 0
    """Jobs of the batch that no worker has taken."""
    held: Mapping[str, int] = field(default_factory=dict)
    """Jobs of the batch by the consumer that holds them: a worker, or the version for which they wait."""
    backlog: int | None = None
    """Jobs of the queue that no worker has taken; None if Redis cannot tell (before 7.0)."""


def waiting_for(facts: BatchFacts) -> str:
    """One sentence: the first cause that applies, and the remedy if there is one."""
    found = (told for reason in _REASONS for told in [reason(facts)] if told)
    return next(found, "none of its jobs waits or runs: were entries deleted from the jobs stream?")


def _nobody(facts: BatchFacts) -> str:
    if facts.workers:
        return ""
    start = f"start one with `rollstream-worker --policy {facts.policy}`"
    if others := [name for name in facts.elsewhere if name != facts.policy]:  # its own worker may have died just now
        nearest = sorted(others, key=partial(_unlike, facts.policy))
        start = f"the live ones serve {_some(map(repr, nearest))}; is the name right? Else {start}"
    return f"no worker serves policy {facts.policy!r}: {start}"


def _unlike(wanted: str, name: str) -> float:
    return 1 - SequenceMatcher(None, wanted, name).ratio()


def _partition(facts: BatchFacts) -> str:
    known = [one for one in facts.workers if one.partitions is not None]
    if len(known) < len(facts.workers) or any((one.partitions or 0) > facts.partition for one in known):
        return ""
    theirs = _some(f"{one.name} has --partitions {one.partitions}" for one in known)
    return (
        f"no worker reads partition {facts.partition}, where this batch is: this client has "
        f"partitions={facts.partitions}, worker {theirs}; give all of them the same number"
    )


def _version(facts: BatchFacts) -> str:
    parked = {found.version: jobs for name, jobs in facts.held.items() if (found := ParkedFor.of(name)) is not None}
    if not parked:
        return ""
    version = min(parked)
    wanted = f"{_jobs(parked[version], facts)} for policy version {version}"
    if facts.newest < version:
        newest = f"the newest is {facts.newest}" if facts.newest else "nothing was published"
        return f"{wanted}, which nobody has published: {newest}"
    refusing = [one for one in facts.workers if one.problem and one.version < version <= one.newest]
    if refusing:
        return f"{wanted}; {_some(f'worker {one.name} refused {one.newest}: {one.problem}' for one in refusing)}"
    if facts.workers and all(one.newest < version for one in facts.workers):
        return f"{wanted}, which is announced and not active: client.activate({version}), if nobody else does"
    return f"{wanted}, which is published: {_some(f'worker {one.name} serves {one.version}' for one in facts.workers)}"


def _session(facts: BatchFacts) -> str:
    waiting = {of.worker: jobs for name, jobs in facts.held.items() if (of := ParkedForWorker.of(name)) is not None}
    return _some(
        f"{_jobs(jobs, facts)} for worker {worker}, which ran their session's last turn, for seconds at most"
        for worker, jobs in waiting.items()
    )


def _paused(facts: BatchFacts) -> str:
    if not (facts.paused and facts.waiting):
        return ""
    resume = f"`rollstream resume --policy {facts.policy}` lets workers go on"
    return f"the queue is paused by an operator, {_jobs(facts.waiting, facts)}: {resume}"


def _nobody_takes(facts: BatchFacts) -> str:
    if not facts.waiting or any(one.takes_jobs for one in facts.workers):
        return ""
    return f"{_jobs(facts.waiting, facts)}, and no worker takes any now: {_some(map(_state, facts.workers))}"


def _under_way(facts: BatchFacts) -> str:
    alive = {one.name for one in facts.workers}
    running = {name: jobs for name, jobs in facts.held.items() if not is_parked(name)}
    told = [_room(facts)] if facts.waiting else []
    told += [one] if (one := _session(facts)) else []
    if running:
        where = _some(
            f"{jobs} in worker {name}{'' if name in alive else ', which is gone'}" for name, jobs in running.items()
        )
        told.append(f"{sum(running.values())} of its {facts.jobs} jobs run: {where}")
    return "; ".join(told)


def _room(facts: BatchFacts) -> str:
    names = _some(one.name for one in facts.workers if one.takes_jobs)
    backlog = "" if facts.backlog is None else f", {max(facts.backlog, facts.waiting)} of the whole queue do"
    return f"{_jobs(facts.waiting, facts)} until a worker has room{backlog}; live: {names}"


_REASONS: tuple[Callable[[BatchFacts], str], ...] = (
    _nobody,
    _partition,
    _version,
    _paused,
    _nobody_takes,
    _under_way,
)


def _state(one: Reporting) -> str:
    if one.state == WorkerState.STARTING:
        return f"{one.name} is starting{f', it loads {one.model}' if one.model else ''}"
    if one.state != WorkerState.PAUSED:
        return f"{one.name} is {one.state}"
    why = f", it refused version {one.newest}: {one.problem}" if one.problem else ""
    return f"{one.name} is paused for {' and '.join(one.paused_for)}{why}"


def _jobs(count: int, facts: BatchFacts) -> str:
    return f"{count} of its {facts.jobs} jobs wait{'s' * (count == 1)}"


def _some(told: Iterable[str], between: str = ", ") -> str:
    every = list(told)
    more = [f"and {len(every) - _MOST_NAMED} more"] if len(every) > _MOST_NAMED else []
    return between.join([*every[:_MOST_NAMED], *more])
