"""`rollstream status` in lines: the partitions, the workers, and what they wait for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.text import Text

from rollstream.schemas.printable import printable

from ...observe.fleet import FleetWorker, Presence
from ...observe.refusals import refusals
from ...operations.queue_state import QueueSeen, QueueState, age, remarks
from .charts import amount
from .fit import Cell, Column, Laid, Lines, table, wrapped
from .workers import worker_table

_QUEUE_COLUMNS = (
    Column(title="partition"),
    Column(title="waiting", right=True, said="{} waiting"),
    Column(title="oldest waiting", right=True),
    Column(title="pending", right=True, said="{} pending"),
    Column(title="parked", rank=1, right=True, said="{} parked"),
    Column(title="jobs kept", rank=2, right=True, said="{} jobs kept"),
    Column(title="dead letters", right=True, said="{} dead letters"),
)


def status_lines(status: QueueState, workers: Sequence[FleetWorker], width: int) -> Lines:
    """The whole report. `workers`: those of `status`, judged by their beats."""
    since = "" if status.paused_s_ago is None else f" since {age(status.paused_s_ago)}"
    paused = f", PAUSED{since}: `rollstream resume` lets workers go on" if status.paused else ""
    lines = wrapped(Text(f"policy {status.policy}{paused}", style="bold"), width)
    lines += queue_table(status.queues, width).lines()
    lines += wrapped(Text(_counted(workers), style="bold"), width)
    lines += worker_table(workers, width).lines()
    for remark in (*remarks(status), *_refused(workers)):
        lines += wrapped(remark, width, indent=2)
    return lines


def _refused(workers: Sequence[FleetWorker]) -> Iterator[str]:
    for (version, why), names in refusals(workers).items():
        yield printable(f"version {version} refused by {', '.join(names)}: {why}")


def _counted(workers: Sequence[FleetWorker]) -> str:
    counts = Counter(worker.presence for worker in workers)
    silent = [f", {counts[how]} {how}" for how in (Presence.LATE, Presence.GONE) if counts[how]]
    told = f"{counts[Presence.LIVE]} live workers{''.join(silent)}"
    return f"{told} (seqs, groups: running now; done, tokens: since they started)" if workers else told


def queue_table(queues: Sequence[QueueSeen], width: int, most: int | None = None) -> Laid:
    """One row for each partition."""
    return table(_QUEUE_COLUMNS, map(_queue_row, queues), width, most)


def _queue_row(queue: QueueSeen) -> list[Cell]:
    waiting = "unknown" if queue.waiting is None else amount(queue.waiting)
    counts = (queue.pending, queue.parked_jobs, queue.entries, queue.dead_letters)
    return [str(queue.partition), waiting, age(queue.oldest_waiting_s), *map(amount, counts)]
