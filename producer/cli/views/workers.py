"""Workers in a table: what each does, and since when nothing is heard of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.text import Text

from rollstream.schemas.hashes.worker_report import WorkerReport, WorkerState

from ...observe.fleet import FleetWorker, Presence
from ...observe.refusals import is_refusing
from ...operations.queue_state import age, refused_version
from .charts import amount, bar
from .fit import Cell, Column, Laid, table

_STATE_STYLES: dict[str, str] = {WorkerState.SERVING: "green", WorkerState.STARTING: "cyan"}
_BAR = 8

_NAME = Column(title="worker", least=20, said="{}")
_STATE = Column(title="state", least=30, keeps_start=True, said="{}")
_VERSION = Column(title="version", said="version {}")
_SEQUENCES = Column(title="seqs", said="{} sequences")
_RATE = Column(title="tokens/s", right=True, said="{} tokens/s")
_SEEN = Column(title="seen ago", right=True, said="seen {} ago")
COLUMNS = (
    *(_NAME, _STATE, _VERSION, _SEQUENCES, _RATE, _SEEN),
    Column(title="groups", rank=2, right=True, said="{} groups"),
    Column(title="engine", rank=3, least=8, said="engine {}"),
    Column(title="model", rank=1, least=20, said="model {}"),
    Column(title="done", rank=4, right=True, said="{} done"),
    Column(title="tokens", rank=5, right=True, said="{} tokens"),
)
_LIVE_COLUMNS = (
    Column(title="worker", least=16, said="{}"),
    Column(title="state", least=24, keeps_start=True, said="{}"),
    Column(title="version", rank=1),
    Column(title="seqs", rank=3),
    Column(title="tokens/s", rank=2, right=True),
    Column(title="seen ago", rank=4, right=True),
    Column(title="model", rank=5, least=20),
)


def worker_table(workers: Iterable[FleetWorker], width: int) -> Laid:
    """Everything about each worker as far as the width allows; what a worker does not report stays empty."""
    return table(COLUMNS, [[*_facts(one, bars=False), *_details(one.report)] for one in workers], width)


def live_table(workers: Sequence[FleetWorker], width: int, most: int | None = None) -> Laid:
    """A line for each worker: what changes from second to second. Workers that need a look come first."""
    ordered = sorted(workers, key=lambda one: (not _needs_a_look(one), one.consumer))
    return table(_LIVE_COLUMNS, [[*_facts(one, bars=True), one.report.model] for one in ordered], width, most)


def _needs_a_look(worker: FleetWorker) -> bool:
    return worker.presence is not Presence.LIVE or worker.report.state != WorkerState.SERVING


def _facts(worker: FleetWorker, *, bars: bool) -> list[Cell]:
    report, gone = worker.report, worker.presence is Presence.GONE
    return [
        worker.consumer,
        state(worker),
        version(worker),
        "" if gone else _sequences(report, bars=bars),
        "" if gone or report.tokens_per_s is None else amount(report.tokens_per_s),
        "" if worker.seen_s_ago is None else age(worker.seen_s_ago),
    ]


def _details(report: WorkerReport) -> list[Cell]:
    return [
        "" if report.running_groups is None else amount(report.running_groups),
        report.engine,
        report.model,
        "" if report.groups_published is None else amount(report.groups_published),
        "" if report.tokens_generated is None else amount(report.tokens_generated),
    ]


def state(worker: FleetWorker) -> Text:
    """What it does, why it takes no jobs, or since when no beat has come."""
    since = "" if worker.seen_s_ago is None else f" since {age(worker.seen_s_ago)}"
    if worker.presence is Presence.GONE:
        return Text(f"gone{since}", style="bold red")
    if worker.presence is Presence.LATE:
        return Text(f"late{since}", style="yellow")
    reasons = [*worker.report.paused_for, *_full(worker.report)]
    why = f" ({','.join(reasons)})" if reasons else ""
    return Text(f"{worker.report.state}{why}", style=_STATE_STYLES.get(worker.report.state, "yellow"))


def _full(report: WorkerReport) -> list[str]:
    """Why it admits fewer sequences than it might."""
    few = report.places is not None and report.most_places is not None and report.places < report.most_places
    return [f"kv cache full: {report.places} of {report.most_places} sequences"] if few else []


def version(worker: FleetWorker) -> str:
    """The version that it serves, and the one that it loads, refused, has prepared or has yet to load."""
    report = worker.report
    serves = "" if report.policy_version is None else str(report.policy_version)
    if report.loading_version is not None:
        return f"{serves} (loads {report.loading_version})".lstrip()
    if is_refusing(worker):
        refused = refused_version(report)
        return f"{serves} ({'?' if refused is None else refused} refused)".lstrip()
    if worker.presence is Presence.GONE:
        return serves
    if report.newest_version in (None, report.policy_version):
        ahead = (report.prepared_version or 0) > (report.policy_version or 0)
        return f"{serves} ({report.prepared_version} prepared)".lstrip() if ahead else serves
    return f"{serves} (-> {report.newest_version})".lstrip()


def _sequences(report: WorkerReport, *, bars: bool) -> Cell:
    if report.running_sequences is None:
        return ""
    if report.max_sequences is None:
        return str(report.running_sequences)
    told = f"{report.running_sequences}/{report.max_sequences}"
    return Text.assemble(bar(report.running_sequences, report.max_sequences, _BAR), f" {told}") if bars else told
