"""Everything that we claim of a GPU, measured on one within half an hour; one JSON file, written after every stage.

Each stage is another benchmark's own command (`--dry-run` prints them all); one that fails is noted and the next one
starts. The files of the models (3 GB) go to `--folder`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import report
from benchmarks.report import Report, Scenario

SMALL = ("--model", "1.5b", "--max-num-seqs", "256")


@dataclass(frozen=True)
class Stage:
    """One command; `limit_s` after which it is given up."""

    name: str
    arguments: tuple[str, ...]
    limit_s: int
    reports: bool = True
    """Whether it takes `--out`."""


STAGES = (
    Stage("weights", ("benchmarks.models", "1.5b", "{folder}", "--weights"), 120, reports=False),
    Stage("saturation", ("benchmarks.saturation", *SMALL, "--memory", "0.3"), 500),
    Stage("lora", ("benchmarks.saturation", *SMALL, "--memory", "0.3", "--lora", "--scenario", "large"), 240),
    Stage("replicas", ("benchmarks.saturation", *SMALL, "--memory", "0.18", "--sweep", "1", "2", "3", "4"), 560),
    Stage("latency", ("benchmarks.latency", *SMALL, "--memory", "0.2"), 300),
    Stage("swap", ("benchmarks.swap", *SMALL, "--memory", "0.4"), 300),
    Stage("7b", ("benchmarks.saturation", "--model", "7b", "--max-num-seqs", "256", "--memory", "0.42", "--scenario",
                 "large"), 300),
    Stage("tests", ("pytest", "-q", "-p", "no:cacheprovider", "tests/test_gpu.py"), 240, reports=False),
)  # fmt: skip


def run(stage: Stage, folder: Path) -> tuple[list[Report], Scenario]:
    """Its reports, and how it went. The output of what failed goes to our own stderr."""
    out = folder / f"{stage.name}.json"
    out.unlink(missing_ok=True)
    command = _command(stage, folder, out)
    began = time.monotonic()
    log = folder / f"{stage.name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(stage.limit_s)
        except subprocess.TimeoutExpired:
            code = 124
        finally:
            _end(process)
    seconds = time.monotonic() - began
    lines = log.read_text(errors="replace").splitlines()
    sys.stderr.write(f"{stage.name}: {seconds:.0f} s, exit code {code}\n")
    if code:
        sys.stderr.write("\n".join(lines[-40:]) + "\n")
    details = {"command": " ".join(command[1:]), "exit_code": code, "last_line": lines[-1] if lines else ""}
    done = Scenario(stage.name, "a stage of this script", "s", "", {"seconds": [seconds]}, details)
    return (report.read(out) if out.exists() else []), done


def _command(stage: Stage, folder: Path, out: Path) -> list[str]:
    arguments = [argument.format(folder=folder) for argument in stage.arguments]
    if stage.reports:
        arguments += ["--folder", str(folder), "--out", str(out)]
    return [sys.executable, "-m", *arguments]


def _end(process: subprocess.Popen[bytes]) -> None:
    """With all that it started: an engine that is left would take the next stage's memory."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main() -> int:
    """Run it. The exit code says how many stages failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/rollstream-gpu"), help="default: %(default)s")  # noqa: S108
    parser.add_argument("--out", type=Path, required=True, metavar="JSON")
    parser.add_argument("--stage", action="append", choices=[stage.name for stage in STAGES], help="default: all")
    parser.add_argument("--budget-s", type=float, default=1800, help="no stage starts after (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    arguments = parser.parse_args()
    stages = [stage for stage in STAGES if arguments.stage is None or stage.name in arguments.stage]
    if arguments.dry_run:
        for stage in stages:
            command = _command(stage, arguments.folder, arguments.folder / f"{stage.name}.json")
            sys.stdout.write(" ".join(["python", *command[1:]]) + "\n")
        return 0
    arguments.folder.mkdir(parents=True, exist_ok=True)
    return _run_all(stages, arguments.folder, arguments.out, arguments.budget_s)


def _run_all(stages: list[Stage], folder: Path, out: Path, budget_s: float) -> int:
    began = time.monotonic()
    found: list[Report] = []
    overview = Report("gpu", [])
    for stage in stages:
        if time.monotonic() - began > budget_s:
            sys.stderr.write(f"{stage.name}: left out, the time is up\n")
            continue
        reports, done = run(stage, folder)
        found += reports
        overview.scenarios.append(done)
        report.write(out, [overview, *found])
    return sum(scenario.details["exit_code"] != 0 for scenario in overview.scenarios)


if __name__ == "__main__":
    sys.exit(main())
