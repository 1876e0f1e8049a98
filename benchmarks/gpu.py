"""All claims about a GPU, measured within half an hour; one JSON file, written after every stage.

Each stage is the command of another benchmark (`--dry-run` prints them all, with the time that each may take). A stage
that fails or exceeds its time is noted, and the next one runs. `--stage` splits the work for machines that are lent for
a shorter time. The files of the models (3 GB) go to `--folder`. Made for a GPU of 141 GB, which the engines of a group
share; on one of 80 GB, name fewer stages at once (docs/performance.md).
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.support import report
from benchmarks.support.processes import LoggedProcess
from benchmarks.support.report import Report, Scenario
from benchmarks.support.turns import VARIABLE, Turn

GIB = 2**30
SMALL = ("--model", "1.5b", "--max-num-seqs", "256", "--memory", "0.05")
MORE = str(9 * GIB // 4)
"""Bytes of KV cache for 256 sequences of one prompt each; groups of 8 share theirs and need less."""


def _scenarios(*names: str) -> list[str]:
    return [part for name in names for part in ("--scenario", name)]


@dataclass(frozen=True)
class Stage:
    """One command of the whole run."""

    name: str
    arguments: tuple[str, ...]
    turns: bool = True
    """Whether it is a benchmark, which waits for its turn (`benchmarks.support.turns`) and writes a report."""
    expected_s: int = 60
    """Expected seconds of measuring, after the engines have started: a guess, for the budget in `--dry-run`."""
    needs: str = ""
    """A package that the stage needs and a machine may not have."""

    @property
    def limit_s(self) -> float:
        """Seconds of measuring after which the stage is ended."""
        return 1.5 * self.expected_s + 30


WEIGHTS = Stage("weights", ("benchmarks.support.models", "1.5b", "{folder}", "--weights"), turns=False, expected_s=15)
_SATURATION = ("benchmarks.engine.saturation", *SMALL, "--kv-cache-bytes", MORE, "--scale", "2")
"""Three full waves of 256 sequences for n = 8 and for n = 1, of four to seven seconds."""
GROUPS: tuple[tuple[Stage, ...], ...] = (
    (
        Stage("tests", ("pytest", "-q", "-p", "no:cacheprovider", "tests/real_engine/test_two_engines.py"),
              turns=False, expected_s=30),
        Stage("7b", ("benchmarks.engine.saturation", "--model", "7b", "--max-num-seqs", "256", "--memory", "0.05",
                     "--kv-cache-bytes", str(5 * GIB // 2), "--scale", "2", *_scenarios("large")), expected_s=85),
        Stage("http", ("benchmarks.http.serve", *SMALL, "--kv-cache-bytes", MORE, "--default-kv-cache-bytes",
                       str(6 * GIB), "--scale", "2", "--replicas", "1", "3", *_scenarios("large", "n=1")),
              expected_s=265, needs="aiohttp"),
        Stage("saturation", _SATURATION, expected_s=370),
        Stage("swap", ("benchmarks.engine.swap", *SMALL, "--kv-cache-bytes", MORE), expected_s=135),
    ),
    (
        Stage("lora", (*_SATURATION, "--lora", *_scenarios("large")), expected_s=80),
        Stage("replicas", ("benchmarks.engine.saturation", *SMALL, "--kv-cache-bytes", str(3 * GIB // 2),
                           "--default-kv-cache-bytes", str(5 * GIB), "--sweep", "1", "2", "3", "4"), expected_s=175),
        Stage("latency", ("benchmarks.engine.latency", *SMALL, "--kv-cache-bytes", MORE, "--count", "30"),
              expected_s=85),
    ),
    (
        Stage("prepared", ("benchmarks.engine.swap", *SMALL, "--kv-cache-bytes", str(10 * GIB), "--prepared",
                           "--repeats", "3", "--window-s", "5"), expected_s=140),
        Stage("prepared-7b", ("benchmarks.engine.swap", "--model", "7b", "--max-num-seqs", "256", "--memory", "0.05",
                              "--kv-cache-bytes", str(20 * GIB), "--prepared", "--repeats", "2", "--window-s", "10"),
              expected_s=270),
    ),
)  # fmt: skip
"""The engines of a group fit into the memory together. They start together and then measure one after the other."""

MINUTES_30 = 1800
GROUP_START_S = 220
"""Expected seconds until all engines of a group are loaded: a guess; 245 and 188 were seen on 16 cores."""
START_LIMIT_S = 400
"""After so many seconds a stage has its turn, ready or not, and then `Stage.limit_s` for the rest."""


class Running:
    """A stage's process."""

    def __init__(self, stage: Stage, folder: Path, turns: Path) -> None:
        self.stage = stage
        self._out = folder / f"{stage.name}.json"
        self._out.unlink(missing_ok=True)
        self._turn = Turn(turns / stage.name) if stage.turns else None
        self._command = _command(stage, folder, self._out)
        environment = {**os.environ, VARIABLE: str(turns / stage.name)}
        self._ran = LoggedProcess(self._command, folder / f"{stage.name}.log", environment)

    def until_ready(self, gives_up: float) -> None:
        """Wait until the stage waits for its turn, has ended or has had its time, or until `gives_up` (monotonic)."""
        ends = min(gives_up, self._ran.started_at + START_LIMIT_S)
        while self._ran.process.poll() is None and time.monotonic() < ends:
            if self._turn is not None and self._turn.is_asked_for():
                return
            time.sleep(0.1)

    def finish(self, gives_up: float) -> tuple[list[Report], Scenario]:
        """Let the stage measure. Returns its reports and how it ended; after a failure its log goes to stderr."""
        ready = time.monotonic()
        if self._turn is not None:
            self._turn.let_go()
        try:
            code = self._ran.process.wait(max(0.0, min(self.stage.limit_s, gives_up - ready)))
        except subprocess.TimeoutExpired:
            code = 124
        self.end()
        spent = {"to_ready": ready - self._ran.started_at, "measuring": time.monotonic() - ready}
        report.say(f"{self.stage.name}: {spent}, exit code {code}" + (f"\n{self._ran.log}" if code else ""))
        last_line = self._ran.log.splitlines()[-1:]
        details = {"command": report.typed(["python", *self._command[1:]]), "exit_code": code, "last_line": last_line}
        runs = {name: [seconds] for name, seconds in spent.items()}
        done = Scenario(self.stage.name, "a stage of this script", "s", "", runs, details)
        return (report.read(self._out) if self._out.exists() else []), done

    def end(self) -> None:
        """End the stage and all its children: an engine that is left would take the next stage's memory."""
        self._ran.end()


def _command(stage: Stage, folder: Path, out: Path) -> list[str]:
    arguments = [argument.format(folder=folder) for argument in stage.arguments]
    if stage.turns:
        arguments += ["--folder", str(folder), "--out", str(out)]
    return [sys.executable, "-m", *arguments]


def run_all(groups: list[list[Stage]], folder: Path, out: Path, budget_s: float) -> int:
    """Run all stages. Returns how many failed, were ended early or were left out."""
    gives_up = time.monotonic() + budget_s
    found: list[Report] = []
    overview = Report("gpu", [])
    for group in groups:
        reasons = {stage: _reason(stage, gives_up) for stage in group}
        overview.scenarios += [_left_out(stage, reason) for stage, reason in reasons.items() if reason]
        report.write(out, [overview, *found])
        turns = Path(tempfile.mkdtemp(prefix="turns-", dir=folder))
        running = [Running(stage, folder, turns) for stage in group if not reasons[stage]]
        try:
            for one in running:
                one.until_ready(gives_up)
            for one in running:
                reports, done = one.finish(gives_up)
                found += reports
                overview.scenarios.append(done)
                report.write(out, [overview, *found])
        finally:
            for one in running:
                one.end()
    return sum(scenario.details["exit_code"] != 0 for scenario in overview.scenarios)


def _reason(stage: Stage, gives_up: float) -> str:
    """Why a stage is left out; empty if it runs."""
    if time.monotonic() > gives_up:
        return "the time is up"
    return f"there is no {stage.needs}" if stage.needs and find_spec(stage.needs) is None else ""


def _left_out(stage: Stage, reason: str) -> Scenario:
    report.say(f"{stage.name}: left out, {reason}")
    return Scenario(stage.name, "a stage of this script", "s", "", {}, {"exit_code": None, "left_out": reason})


def _shown(groups: list[list[Stage]], folder: Path) -> str:
    """The commands, with the time that they should take."""
    lines, total = [], 0
    for group in groups:
        start = GROUP_START_S if any(stage.turns for stage in group) else 0
        total += start + sum(stage.expected_s for stage in group)
        lines.append(f"# about {start} s to start side by side, then one after the other:")
        for stage in group:
            command = _command(stage, folder, folder / f"{stage.name}.json")
            lines += [f"# {stage.name}: about {stage.expected_s} s, {stage.limit_s:g} s at most", _typed(command)]
    return "\n".join([*lines, f"# about {total} s in all; 30 minutes are {MINUTES_30} s"]) + "\n"


def _typed(command: list[str]) -> str:
    return shlex.join(["python", *command[1:]])


def main() -> int:
    """Run the benchmarks. The exit code is the number of stages that failed or were left out."""
    names = [stage.name for group in GROUPS for stage in group]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/rollstream-gpu"), help="default: %(default)s")  # noqa: S108
    parser.add_argument("--out", type=Path, required=True, metavar="JSON")
    parser.add_argument("--stage", action="append", choices=names, help="default: all")
    parser.add_argument("--budget-s", type=float, default=MINUTES_30 - 60, help="ends all (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    arguments = parser.parse_args()
    wanted = arguments.stage or names
    groups = [[stage for stage in group if stage.name in wanted] for group in ((WEIGHTS,), *GROUPS)]
    groups[0] = [WEIGHTS]
    if arguments.dry_run:
        sys.stdout.write(_shown([group for group in groups if group], arguments.folder))
        return 0
    arguments.folder.mkdir(parents=True, exist_ok=True)
    return run_all([group for group in groups if group], arguments.folder, arguments.out, arguments.budget_s)


if __name__ == "__main__":
    sys.exit(main())
