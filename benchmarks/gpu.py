"""Everything that we claim of a GPU, measured on one within half an hour; one JSON file, written after every stage.

Each stage is another benchmark's own command (`--dry-run` prints them all); one that fails is noted and the next one
has its turn. The files of the models (3 GB) go to `--folder`. Written for a GPU of 80 GB.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import report
from benchmarks.report import Report, Scenario
from benchmarks.turns import VARIABLE, is_ready, let_go

GIB = 2**30
SMALL = ("--model", "1.5b", "--max-num-seqs", "256", "--memory", "0.05")
MORE = str(9 * GIB // 4)
"""Bytes of KV cache for 256 sequences of one prompt each; groups of 8 share theirs and need less."""


@dataclass(frozen=True)
class Stage:
    """One command. `turn` is what it calls itself in `benchmarks.turns`; None: it takes no part."""

    name: str
    arguments: tuple[str, ...]
    turn: str | None = None


WEIGHTS = Stage("weights", ("benchmarks.models", "1.5b", "{folder}", "--weights"))
GROUPS: tuple[tuple[Stage, ...], ...] = (
    (
        Stage("saturation", ("benchmarks.saturation", *SMALL, "--kv-cache-bytes", MORE), "saturation-1.5b"),
        Stage("latency", ("benchmarks.latency", *SMALL, "--kv-cache-bytes", MORE, "--count", "30"), "latency"),
        Stage("swap", ("benchmarks.swap", *SMALL, "--kv-cache-bytes", MORE), "swap"),
        Stage("lora", ("benchmarks.saturation", *SMALL, "--kv-cache-bytes", MORE, "--lora", "--scenario", "large"),
              "lora"),
    ),
    (
        Stage("tests", ("pytest", "-q", "-p", "no:cacheprovider", "tests/test_gpu.py")),
        Stage("replicas", ("benchmarks.saturation", *SMALL, "--kv-cache-bytes", str(3 * GIB // 2),
                           "--default-kv-cache-bytes", str(5 * GIB), "--sweep", "1", "2", "3", "4"), "replicas"),
    ),
    (
        Stage("7b", ("benchmarks.saturation", "--model", "7b", "--max-num-seqs", "256", "--memory", "0.05",
                     "--kv-cache-bytes", str(4 * GIB), "--scenario", "large"), "saturation-7b"),
    ),
)  # fmt: skip
"""The engines of a group fit the memory together; they start at once, and then measure one after the other."""

START_LIMIT_S = 400
LIMIT_S = 500


class Running:
    """A stage's process."""

    def __init__(self, stage: Stage, folder: Path, turns: Path) -> None:
        self.stage = stage
        self._out, self._log = folder / f"{stage.name}.json", folder / f"{stage.name}.log"
        self._out.unlink(missing_ok=True)
        self._turns = turns
        self._began = time.monotonic()
        self._went: float | None = None
        self.command = _command(stage, folder, self._out)
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                self.command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, VARIABLE: str(turns)},
            )  # fmt: skip

    def until_ready(self) -> None:
        """Until it waits for its turn, has ended, or has had its time."""
        ends = self._began + START_LIMIT_S
        while self.process.poll() is None and time.monotonic() < ends:
            if self.stage.turn is not None and is_ready(self._turns, self.stage.turn):
                return
            time.sleep(0.1)

    def finish(self) -> tuple[list[Report], Scenario]:
        """Let it measure; its reports, and how it went. The end of its log goes to stderr where it failed."""
        ready = time.monotonic()
        if self.stage.turn is not None:
            let_go(self._turns, self.stage.turn)
        try:
            code = self.process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            code = 124
        self.end()
        spent = {"to_ready": ready - self._began, "measuring": time.monotonic() - ready}
        lines = self._log.read_text(errors="replace").splitlines()
        sys.stderr.write(
            f"{self.stage.name}: {spent}, exit code {code}\n" + "\n".join(lines[-40:] if code else []) + "\n"
        )
        details = {"command": " ".join(["python", *self.command[1:]]), "exit_code": code, "last_line": lines[-1:]}
        runs = {name: [seconds] for name, seconds in spent.items()}
        done = Scenario(self.stage.name, "a stage of this script", "s", "", runs, details)
        return (report.read(self._out) if self._out.exists() else []), done

    def end(self) -> None:
        """With all that it started: an engine that is left would take the next stage's memory."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _command(stage: Stage, folder: Path, out: Path) -> list[str]:
    arguments = [argument.format(folder=folder) for argument in stage.arguments]
    if stage.turn is not None:
        arguments += ["--folder", str(folder), "--out", str(out)]
    return [sys.executable, "-m", *arguments]


def _run_all(groups: list[list[Stage]], folder: Path, out: Path, budget_s: float) -> int:
    began = time.monotonic()
    found: list[Report] = []
    overview = Report("gpu", [])
    for group in groups:
        if time.monotonic() - began > budget_s:
            sys.stderr.write(f"left out, the time is up: {', '.join(stage.name for stage in group)}\n")
            continue
        turns = Path(tempfile.mkdtemp(prefix="turns-", dir=folder))
        running = [Running(stage, folder, turns) for stage in group]
        try:
            for one in running:
                one.until_ready()
            for one in running:
                reports, done = one.finish()
                found += reports
                overview.scenarios.append(done)
                report.write(out, [overview, *found])
        finally:
            for one in running:
                one.end()
    return sum(scenario.details["exit_code"] != 0 for scenario in overview.scenarios)


def main() -> int:
    """Run it. The exit code says how many stages failed."""
    names = [stage.name for group in GROUPS for stage in group]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/rollstream-gpu"), help="default: %(default)s")  # noqa: S108
    parser.add_argument("--out", type=Path, required=True, metavar="JSON")
    parser.add_argument("--stage", action="append", choices=names, help="default: all")
    parser.add_argument("--budget-s", type=float, default=1500, help="no group starts after (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    arguments = parser.parse_args()
    wanted = arguments.stage or names
    groups = [[stage for stage in group if stage.name in wanted] for group in ((WEIGHTS,), *GROUPS)]
    groups[0] = [WEIGHTS]
    if arguments.dry_run:
        for stage in (stage for group in groups for stage in group):
            command = _command(stage, arguments.folder, arguments.folder / f"{stage.name}.json")
            sys.stdout.write(" ".join(["python", *command[1:]]) + "\n")
        return 0
    arguments.folder.mkdir(parents=True, exist_ok=True)
    return _run_all([group for group in groups if group], arguments.folder, arguments.out, arguments.budget_s)


if __name__ == "__main__":
    sys.exit(main())
