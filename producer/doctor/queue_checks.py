"""The doctor's checks of a policy's queue and its workers. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from rollstream.schemas.pause_reason import PauseReason

from ..operations.lease import LeaseSeen, told_by
from ..operations.queue_state import WorkerSeen, age
from .batch_checks import batch_findings
from .finding import FAIL, OLD_S, WARN, Finding, graded, some
from .policy_checks import policy_findings
from .redis_checks import FREES_MEMORY
from .run_checks import run_findings
from .seen import Probe
from .stream_checks import stream_findings


def queue_findings(found: Probe) -> Iterator[Finding]:
    """The findings, in the order in which an operator should mend them."""
    yield from _wrong_types(found)
    yield _partitions(found)
    yield from _consumer_groups(found)
    yield _workers(found)
    yield from _differing(found)
    yield _lease(found)
    yield _paused(found)
    yield _intake(found)
    yield from _adapter_caches(found)
    yield _backlog(found)
    yield _consumers(found)
    yield from policy_findings(found)
    yield _stranded(found)
    yield from stream_findings(found)
    yield from batch_findings(found.batches, found.policy)
    yield from run_findings(found.runs, found.policy)
    yield _dead_letters(found)


def _wrong_types(found: Probe) -> Iterator[Finding]:
    for key, (expected, kind) in sorted(found.wrong_types.items()):
        remedy = "something else wrote it: use another policy or database, or RENAME the key and start again"
        yield Finding(check="key", level=FAIL, seen=f"{key} is a {kind}, not a {expected}", remedy=remedy)


def _partitions(found: Probe) -> Finding:
    beyond = ", ".join(map(str, found.beyond))
    return graded(
        "partitions",
        f"jobs also in partition {beyond}" if beyond else "no jobs outside of them",
        fail=bool(beyond),
        remedy="no worker reads jobs there: give all workers and this command the producers' --partitions",
    )


def _consumer_groups(found: Probe) -> Iterator[Finding]:
    missing = [seen.queue.partition for seen in found.partitions if not seen.group]
    where = ", ".join(map(str, missing))
    yield graded(
        "consumer group",
        f"missing in partition {where}" if missing else f"in all {len(found.partitions)} partitions",
        fail=bool(missing and _ready(found)),
        warn=bool(missing),
        remedy=(
            "workers live but do not read there: were they started with the same --partitions?"
            if _ready(found)
            else "the first worker creates it once it has loaded its model"
            if found.workers
            else "the first worker creates it: start one"
        ),
    )


def _workers(found: Probe) -> Finding:
    unfinished = _waiting(found) + sum(seen.queue.pending for seen in found.partitions)
    loading = [worker for worker in found.workers if worker.report.is_starting]
    models = some(worker.report.model for worker in loading)
    starting = f" ({len(loading)} starting: {models or 'no model'})" if loading else ""
    return graded(
        "workers",
        f"{len(found.workers)} live{starting}, {unfinished} jobs unfinished",
        fail=bool(unfinished and not found.workers),
        warn=not _ready(found),
        remedy="wait until it has loaded its model; its log says how far it is"
        if loading
        else f"start one: rollstream-worker --policy {found.policy}",
    )


def _ready(found: Probe) -> list[WorkerSeen]:
    """Workers that have loaded the version they serve."""
    return [worker for worker in found.workers if not worker.report.is_starting]


def _differing(found: Probe) -> Iterator[Finding]:
    reports = [worker.report for worker in _ready(found)]
    versions = ["" if report.policy_version is None else str(report.policy_version) for report in reports]
    for what, values in (("model", {report.model for report in reports}), ("policy version", {*versions})):
        if len(values) > 1:
            seen = f"workers differ in their {what}: {', '.join(value or '(none)' for value in sorted(values))}"
            remedy = "one batch is answered by all of them: drain the wrong ones, or wait if they are being changed"
            yield Finding(check=what, level=WARN, seen=seen, remedy=remedy)


def _lease(found: Probe) -> Finding:
    agreed = found.lease_agreed
    seen = LeaseSeen(
        seconds=agreed,
        problem=found.lease_problem,
        workers={name: told for name, told in told_by(found.workers).items() if told},
    )
    others = [f"{name} has {told} s" for name, told in sorted(seen.differing(agreed).items())]
    lease = "none agreed yet" if agreed is None else f"{agreed:g} s"
    return graded(
        "lease",
        seen.problem or (f"{lease}, but {some(others)}" if others else lease),
        fail=bool(seen.problem or others),
        remedy="with another lease a worker takes the jobs of the others: drain them, then `rollstream lease "
        f"--policy {found.policy} --set SECONDS`, and start them with that lease",
    )


def _paused(found: Probe) -> Finding:
    since = "" if found.paused_s_ago is None else f" for {age(found.paused_s_ago)}"
    return graded(
        "pause",
        f"the queue is paused{since}" if found.paused else "the queue is not paused",
        warn=found.paused,
        remedy=f"rollstream resume --policy {found.policy}",
    )


def _intake(found: Probe) -> Finding:
    full = _paused_for(PauseReason.MEMORY, found)
    return graded(
        "intake",
        f"{len(full)} of {len(found.workers)} workers take no jobs, Redis is nearly full: {some(full)}"
        if full
        else "no worker waits for memory",
        fail=bool(full),
        remedy=FREES_MEMORY,
    )


def _adapter_caches(found: Probe) -> Iterator[Finding]:
    if stopped := _paused_for(PauseReason.ADAPTER_CACHE, found):
        seen = f"{len(stopped)} of {len(found.workers)} workers cannot keep adapters and take no jobs: {some(stopped)}"
        remedy = "free space at their --adapter-cache, and they go on by themselves; or start them with another folder"
        yield Finding(
            check="adapter cache", level=FAIL if len(stopped) == len(found.workers) else WARN, seen=seen, remedy=remedy
        )


def _paused_for(reason: PauseReason, found: Probe) -> list[str]:
    return [worker.consumer for worker in found.workers if reason in worker.report.paused_for]


def _backlog(found: Probe) -> Finding:
    ages = [seen.queue.oldest_waiting_s for seen in found.partitions if seen.queue.oldest_waiting_s is not None]
    oldest = max(ages, default=0.0)
    return graded(
        "backlog",
        f"{_waiting(found)} jobs waiting, the oldest for {age(oldest)}" if ages else "no job waits",
        warn=oldest > OLD_S,
        remedy="start more workers, or submit less: `rollstream status` shows what workers do",
    )


def _waiting(found: Probe) -> int:
    """A lower bound: a partition whose waiting jobs could not be counted adds 1 if any job waits."""
    queues = [seen.queue for seen in found.partitions]
    return sum(int(q.oldest_waiting_s is not None) if q.waiting is None else q.waiting for q in queues)


def _consumers(found: Probe) -> Finding:
    live = {worker.consumer for worker in found.workers}
    workers = [(seen, c) for seen in found.partitions for c in seen.consumers]
    gone = [(seen, c) for seen, c in workers if c.name not in live and c.pending]
    jobs = sum(consumer.pending for _, consumer in gone)
    return graded(
        "consumers",
        f"{len({c.name for _, c in gone})} are gone and hold {jobs} jobs: {some([c.name for _, c in gone])}"
        if gone
        else f"{len({c.name for _, c in workers})}, none gone with jobs in hand",
        warn=bool(gone),
        remedy="live workers take these jobs over when the lease ends; if no worker is alive, start one",
    )


def _stranded(found: Probe) -> Finding:
    """Only a warning while jobs wait or the queue is paused: full or paused workers take over no jobs."""
    count = sum(seen.stranded for seen in found.partitions)
    where = ", ".join(str(seen.queue.partition) for seen in found.partitions if seen.stranded)
    busy = found.workers and (found.paused or _waiting(found))
    return graded(
        "stranded",
        f"{count} jobs idle for more than {1.5 * found.lease_s:g} s, in partition {where}"
        if count
        else "none left behind",
        fail=bool(count and not busy),
        warn=bool(count),
        remedy=(
            "no worker renews or takes them: are all workers full, paused or hung, or is their --lease-s longer?"
            if found.workers
            else "no worker takes them over: start one"
        ),
    )


def _dead_letters(found: Probe) -> Finding:
    count = sum(seen.queue.dead_letters for seen in found.partitions)
    return graded(
        "dead letters",
        str(count),
        warn=bool(count),
        remedy=f"rollstream dead ls --policy {found.policy}; then requeue or drop them",
    )
