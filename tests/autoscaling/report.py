"""What a trial shows: a table, a report like those of the benchmarks, and the picture of `docs/kubernetes.md`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.support.report import Report, Scenario
from tests.autoscaling.day import HOURS, Day, load
from tests.autoscaling.rules import Rules
from tests.autoscaling.trial import Look, Outcome

AUTOSCALED, FIXED = "autoscaled", "fixed fleet"
_SHOWN_PROBLEMS = 20
_EACH = 5
"""Every so many looks are in the file."""


def print_report(console: Console, scaled: Outcome, fixed: Outcome | None) -> None:
    """The table, the first problems, and the verdict."""
    runs = [scaled] if fixed is None else [scaled, fixed]
    table = Table("", *(AUTOSCALED, FIXED)[: len(runs)], box=SIMPLE_HEAD)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, *cells in zip(_rows(scaled), *(_rows(run).values() for run in runs), strict=True):
        table.add_row(name, *cells)
    console.print(table)
    problems = [problem for run in runs for problem in run.problems]
    for problem in problems[:_SHOWN_PROBLEMS]:
        console.print(problem, style="red", markup=False)
    if fixed is not None:
        console.print(f"GPU time saved: {1 - scaled.gpu_s / fixed.gpu_s:.0%}")
    verdict = "FAILED" if problems else "nothing lost, nothing twice"
    console.print(verdict, style="bold red" if problems else "bold green")


def _rows(run: Outcome) -> dict[str, str]:
    return {
        "batches answered": str(len(run.waits)),
        "groups answered": str(run.groups),
        "lost, doubled, pending or strange": str(len(run.problems)),
        "generated again": str(run.redelivered),
        "wait, median, minutes": f"{run.p50 / 60:.1f}",
        "wait, 95th percentile, minutes": f"{run.p95 / 60:.1f}",
        "longest backlog, minutes of the workers there were": f"{_longest(run) / 60:.0f}",
        "most workers": str(run.most),
        "GPU hours": f"{run.gpu_s / 3600:.1f}",
        "workers started": str(run.started),
        "killed as spot instances": str(run.killed),
        "scaled to zero": str(run.zeros),
        "turns between up and down": str(run.turns),
        "seconds of this machine": f"{run.real_s:.0f}",
    }


def _longest(run: Outcome) -> float:
    """The most work that each worker had before it, at any look."""
    return max((look.worker_s / max(1, look.wanted) for look in run.looks if look.worker_s is not None), default=0.0)


def report_of(scaled: Outcome, fixed: Outcome | None, size: int | None, settings: dict[str, Any]) -> Report:
    """As the benchmarks report, with all that was looked at."""
    arms = {AUTOSCALED: scaled} if fixed is None else {FIXED: fixed, AUTOSCALED: scaled}

    def scenario(name: str, about: str, unit: str, numbers: dict[str, float]) -> Scenario:
        runs = {arm: [number] for arm, number in numbers.items()}
        return Scenario(name=name, about=about, unit=unit, baseline=next(iter(arms)), runs=runs)

    scenarios = [
        scenario("GPU time", "from a worker's start to its end", "h", {a: o.gpu_s / 3600 for a, o in arms.items()}),
        scenario("wait, 95th percentile", "of a batch, by the day's clock", "s", {a: o.p95 for a, o in arms.items()}),
        scenario("wait, median", "of a batch, by the day's clock", "s", {a: o.p50 for a, o in arms.items()}),
    ]
    scenarios[0].details = {arm: _facts(run) for arm, run in arms.items()}
    return Report(benchmark="autoscaling", scenarios=scenarios, settings={**settings, "fixed fleet": size})


def _facts(run: Outcome) -> dict[str, Any]:
    exits = {str(code): count for code, count in run.exits.items()}
    looks = [{name: _short(value) for name, value in asdict(look).items()} for look in run.looks[::_EACH]]
    return {**_rows(run), "exits": exits, "problems": run.problems, "looks": looks}


def _short(value: Any) -> Any:
    return round(value, 2) if isinstance(value, float) else value


def draw(day: Day, scaled: Outcome, fixed: Outcome | None, size: int | None, rules: Rules, path: Path) -> None:
    """The day from top to bottom: load, workers, backlog; and what both fleets cost and how long batches waited."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(11, 7.5))
    grid = figure.add_gridspec(6, 2, width_ratios=(4, 1), hspace=0.9, wspace=0.25)
    top = figure.add_subplot(grid[:2, 0])
    _draw_load(top, day)
    workers = figure.add_subplot(grid[2:4, 0], sharex=top)
    _draw_workers(workers, scaled.looks, size)
    backlog = figure.add_subplot(grid[4:, 0], sharex=top)
    _draw_backlog(backlog, scaled.looks, rules)
    if fixed is not None:
        _draw_bars(figure.add_subplot(grid[:3, 1]), "GPU hours", [scaled.gpu_s / 3600, fixed.gpu_s / 3600])
        _draw_bars(figure.add_subplot(grid[3:, 1]), "wait, p95 (min)", [scaled.p95 / 60, fixed.p95 / 60])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    pyplot.close(figure)


def _draw_load(axis: Any, day: Day) -> None:
    hours = [step / 20 for step in range(20 * HOURS + 1)]
    axis.fill_between(hours, [load(hour) for hour in hours], alpha=0.4, label="load, in workers that it keeps busy")
    for number, hour in enumerate(day.interruptions):
        axis.axvline(
            hour, color="tab:red", linewidth=0.8, linestyle=":", label=None if number else "a worker is killed"
        )
    axis.set(ylabel="load", xlim=(0, HOURS), xticks=range(0, HOURS + 1, 3))
    axis.legend(fontsize=8, loc="upper left")


def _draw_workers(axis: Any, looks: list[Look], size: int | None) -> None:
    hours = [look.hour for look in looks]
    axis.step(
        hours, [look.alive for look in looks], where="post", color="0.7", label="paid for: starting, draining too"
    )
    axis.step(hours, [look.wanted for look in looks], where="post", label="wanted")
    axis.step(hours, [look.serving for look in looks], where="post", linewidth=0.8, label="serving")
    if size is not None:
        axis.axhline(size, color="tab:purple", linestyle="--", linewidth=1, label="fixed fleet with the same wait")
    axis.set(ylabel="workers")
    axis.legend(fontsize=8, loc="upper left")


def _draw_backlog(axis: Any, looks: list[Look], rules: Rules) -> None:
    known = [look for look in looks if look.worker_s is not None]
    each = [(look.worker_s or 0) / max(1, look.wanted) / 60 for look in known]
    axis.plot([look.hour for look in known], each, linewidth=1, label="backlog, minutes of the workers wanted")
    axis.axhline(rules.target / 60, color="tab:green", linestyle="--", linewidth=1, label="target")
    axis.set(ylabel="minutes", xlabel="hour of the day")
    axis.legend(fontsize=8, loc="upper left")


def _draw_bars(axis: Any, title: str, values: list[float]) -> None:
    bars = axis.bar([AUTOSCALED, FIXED], values, color=["tab:blue", "tab:purple"])
    axis.bar_label(bars, fmt="%.1f", fontsize=8)
    axis.set_title(title, fontsize=9)
    axis.set_ylim(0, 1.15 * max(values))
    axis.tick_params(labelsize=8)
