"""Every benchmark that needs no GPU, one after the other; a JSON file for each, one for all, and a plot.

Each stage is the command of another benchmark, which says what it does (`--dry-run` prints all). A stage that fails is
noted, and the next one runs. `python -m benchmarks.peers runs/peers` installs the queues with which ours is compared,
each in its own environment (arq and taskiq-redis need different versions of redis); without them only ours is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.support import plots, report
from benchmarks.support.report import Report, Scenario

STAGES: dict[str, tuple[str, ...]] = {
    "start": ("benchmarks.engine.start", "--repeats", "3"),
    "memory": ("benchmarks.engine.memory",),
    "saturation": ("benchmarks.engine.saturation", "--scale", "2"),
    "lora": ("benchmarks.engine.saturation", "--scale", "2", "--lora", "--scenario", "large"),
    "latency": ("benchmarks.engine.latency", "--count", "30", "--seconds", "15"),
    "swap": ("benchmarks.engine.swap",),
    "prepared": ("benchmarks.engine.swap", "--prepared", "--window-s", "3"),
    "proofs": ("benchmarks.engine.proofs", "--swaps", "3"),
    "engine_metrics": ("benchmarks.engine.engine_metrics",),
    "candidates": ("benchmarks.engine.candidates", "--repeats", "3", "--kv-cache-bytes", str(2**26)),
    "admission": ("benchmarks.engine.admission", "--max-num-seqs", "16", "--repeats", "2"),
    "partials": ("benchmarks.engine.partials", "--kv-cache-bytes", str(2**27)),
    "watched": ("benchmarks.engine.watched", "--kv-cache-bytes", str(2**26)),
    "http": (
        "benchmarks.http.serve",
        "--kv-cache-bytes",
        str(2**28),
        "--scenario",
        "large",
        "--scenario",
        "long",
        "--scenario",
        "no log-probs",
    ),
    "scale": ("benchmarks.queue.scale", "--seconds", "6"),
    "queue": ("benchmarks.queue.alone", "--jobs", "1600", "--workers", "1", "2", "--repeats", "3"),
    "tails": ("benchmarks.queue.tails",),
    "makespan": ("benchmarks.queue.makespan", "--workers", "1", "4", "--seeds", "2"),
    "sessions": ("benchmarks.queue.sessions", "--repeats", "2"),
    "flips": ("benchmarks.queue.flips", "--workers", "16", "--repeats", "5"),
    "redis_wait": ("benchmarks.queue.redis_wait", "--jobs", "1600", "--repeats", "5"),
    "faults": ("benchmarks.faults", "--seconds", "40", "--repeats", "1"),
    "observe": ("benchmarks.queue.observe", "--entries", "100000"),
    "batch_page": ("benchmarks.queue.batch_page", "--groups", "2000"),
    "weights": ("benchmarks.queue.weights",),
    "traces": ("benchmarks.queue.traces", "--jobs", "1600", "--repeats", "5"),
}
PEERS = Path("runs/peers")
"""Where `benchmarks.peers` installs the other queues."""
LIMIT_S = 900


def command(name: str, folder: Path) -> list[str]:
    """The command of a stage. If the other queues are not in PEERS, only for ours."""
    found = [sys.executable, "-m", *STAGES[name], "--out", str(folder / f"{name}.json")]
    if name != "queue":
        return found
    return [*found, *(["--peers", str(PEERS)] if PEERS.exists() else ["--arm", "rollstream", "--arm", "rollstream x8"])]


def run(name: str, folder: Path) -> tuple[list[Report], Scenario]:
    """Run a stage, which writes to this terminal. Returns its reports and how it ended."""
    out, began = folder / f"{name}.json", time.monotonic()
    out.unlink(missing_ok=True)
    with subprocess.Popen(command(name, folder), start_new_session=True) as process:
        try:
            code = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            code = 124
        finally:  # with all its children: an engine that is left would slow the next stage down
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    details = {"exit_code": code, "command": report.typed(["python", *command(name, folder)[1:]])}
    runs = {"seconds": [time.monotonic() - began]}
    return (report.read(out) if out.exists() else []), Scenario(name, "a stage of this script", "s", "", runs, details)


def run_all(names: list[str], folder: Path) -> int:
    """Run the stages and write all results after each. Returns how many failed."""
    overview, found = Report("cpu", []), list[Report]()
    for name in names:
        sys.stdout.write(f"\n== {name}: {' '.join(['python', *command(name, folder)[1:]])}\n")
        sys.stdout.flush()
        reports, went = run(name, folder)
        found += reports
        overview.scenarios.append(went)
        report.write(folder / "cpu.json", [overview, *found])
    sys.stdout.write(f"\n== how long each took\n\n{overview.table()}\n")
    drawn = _drawn(found, folder / "cpu.png")
    sys.stdout.write(f"\nwritten to {folder / 'cpu.json'}, {drawn}\n")
    failed = [stage.name for stage in overview.scenarios if stage.details["exit_code"]]
    sys.stdout.write(f"failed: {', '.join(failed)}\n" if failed else "")
    return len(failed)


def _drawn(found: list[Report], path: Path) -> str:
    """Draw the plot; returns a note on it."""
    if not found:
        return "no plot: there is nothing to draw"
    try:
        plots.plot(found, path)
    except ModuleNotFoundError as error:
        return f"no plot: {error}"
    return f"drawn in {path}"


def main() -> int:
    """Run the benchmarks. The exit code is the number of failed stages."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"), help="for the results (%(default)s)")
    parser.add_argument("--stage", action="append", choices=list(STAGES), help="repeat for several; default: all")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    arguments = parser.parse_args()
    names = [name for name in STAGES if name in (arguments.stage or STAGES)]
    if arguments.dry_run:
        for name in names:
            sys.stdout.write(shlex.join(["python", *command(name, arguments.folder)[1:]]) + "\n")
        return 0
    arguments.folder.mkdir(parents=True, exist_ok=True)
    return run_all(names, arguments.folder)


if __name__ == "__main__":
    sys.exit(main())
