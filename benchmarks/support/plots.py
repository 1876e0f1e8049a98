"""Charts of reports. Needs matplotlib (the extra `example`), which is imported when something is drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.support.report import Report


def plot(reports: Sequence[Report], path: Path) -> None:
    """Draw every arm's median by scenario: lines if each has an `x`, else bars. A chart for each unit and model."""
    import matplotlib as mpl  # noqa: PLC0415 - the benchmarks run without it

    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    charts = _charts(reports)
    figure, axes = pyplot.subplots(len(charts), 1, figsize=(11, 3.6 * len(charts)), squeeze=False)
    for axis, (title, report) in zip(axes[:, 0], charts.items(), strict=True):
        (_lines if all(scenario.x is not None for scenario in report.scenarios) else _bars)(axis, report)
        axis.set_ylabel(report.scenarios[0].unit)
        axis.set_title(title, fontsize=9)
        axis.legend(fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _charts(reports: Iterable[Report]) -> dict[str, Report]:
    """Charts by title; parts measured on the same machine are joined if they have the same unit."""
    found: dict[str, Report] = {}
    for report in reports:
        model = f", {report.settings['model']}" if "model" in report.settings else ""
        machine = report.machine.get("gpu") or report.machine.get("cpu")
        for scenario in report.scenarios:
            title = f"{report.benchmark}{model}, {scenario.unit} ({machine})"
            before = found[title].scenarios if title in found else []
            found[title] = replace(report, scenarios=[*before, scenario])
    return found


def _bars(axis: Any, report: Report) -> None:
    arms = list(dict.fromkeys(arm for scenario in report.scenarios for arm in scenario.runs))
    width = 0.8 / max(1, len(arms))
    for number, arm in enumerate(arms):
        known = [(place, s.medians[arm]) for place, s in enumerate(report.scenarios) if arm in s.medians]
        axis.bar([place + number * width for place, _ in known], [value for _, value in known], width, label=arm)
    axis.set_xticks([place + 0.4 - width / 2 for place in range(len(report.scenarios))])
    axis.set_xticklabels([scenario.name for scenario in report.scenarios], rotation=20, ha="right", fontsize=8)


def _lines(axis: Any, report: Report) -> None:
    for arm in dict.fromkeys(arm for scenario in report.scenarios for arm in scenario.runs):
        known = [(scenario.x, scenario.medians[arm]) for scenario in report.scenarios if arm in scenario.medians]
        axis.plot(*zip(*known, strict=True), "--" if arm == report.scenarios[0].baseline else "o-", label=arm)
    axis.set_xscale("log", base=2)
    axis.set_xticks([scenario.x for scenario in report.scenarios], [scenario.name for scenario in report.scenarios])
