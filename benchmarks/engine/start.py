"""Seconds from a command to a serving worker, compared with vLLM's engine alone; and what imports cost.

Every run is a new process, in turns. `rollstream-worker` is timed until its report in Redis says that it serves, after
its first requests; `AsyncLLM` alone, with the same arguments, until it has answered one request. How often the weights
are opened is counted meanwhile (Linux). `--no-vllm` leaves out what needs vLLM.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.engine.saturation import POLICY, Engines, add_engine_flags, bench_redis, prepare, shown_engines
from benchmarks.support import report
from benchmarks.support.arms import Raw
from benchmarks.support.fleet import Fleet
from benchmarks.support.models import make
from benchmarks.support.processes import ROOT, START_TIMEOUT_S
from benchmarks.support.report import Report, Scenario
from benchmarks.support.workload import Load, Workload, config
from rollstream.producer.demo.embedded_redis import die_with_parent
from rollstream.schemas import RollstreamError
from rollstream.worker.config import WorkerSettings

_COMMAND = "import sys; sys.argv = [{name!r}, '--help']; from {package}.__main__ import main; sys.exit(main())"
PROGRAMS = {
    "python": "pass",
    "import rollstream": "import rollstream",
    "from rollstream import AsyncClient": "from rollstream import AsyncClient",
    "rollstream --help": _COMMAND.format(name="rollstream", package="rollstream"),
    "rollstream-worker --help": _COMMAND.format(name="rollstream-worker", package="rollstream.worker"),
}
HEAVY = ("torch", "vllm", "transformers", "safetensors", "matplotlib", "numpy", "pydantic", "redis", "typer", "rich")
RAW = "from benchmarks.engine.start import raw_start; raw_start({flags!r})"
_IMPORT_TIME = re.compile(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)$")
_IN_OPEN, _EVENT = 0x20, struct.Struct("iIII")


class StartFailedError(RollstreamError):
    """Raised when a program that is timed fails; the text ends with what it wrote to stderr."""


def program(code: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end. Raises `StartFailedError`."""
    done = subprocess.run([sys.executable, *flags, "-c", code], cwd=ROOT, capture_output=True, text=True,
                          check=False, timeout=START_TIMEOUT_S)  # fmt: skip
    if done.returncode:
        raise StartFailedError(f"{code}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    return done


def imports(repeats: int) -> Scenario:
    """Time programs that should start at once; an uncounted first round fills the disk cache."""
    runs: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for number in range(repeats + 1):
        for name, code in PROGRAMS.items():
            began = time.perf_counter()
            program(code)
            if number:
                runs[name].append(time.perf_counter() - began)
    details = {name: imported(program(code, "-X", "importtime").stderr) for name, code in PROGRAMS.items()}
    return Scenario("import", "a fresh process, to its end", "s", "python", runs, details)


def imported(importtime: str) -> dict[str, Any]:
    """From the output of `-X importtime`: how many modules, which heavy packages, and which packages took longest.

    The milliseconds are those of a package's own modules, without imports of others.
    """
    found = [match for line in importtime.splitlines() if (match := _IMPORT_TIME.match(line))]
    spent: Counter[str] = Counter()
    for match in found:
        spent[match[2].partition(".")[0]] += int(match[1])
    top = {package: round(us / 1000, 1) for package, us in spent.most_common(8)}
    return {"modules": len(found), "heavy": [package for package in HEAVY if package in spent], "top_ms": top}


def raw_start(flags: list[str]) -> None:
    """Start `AsyncLLM` alone, as `Raw` does, and run one request; print the seconds of each part as a line of JSON."""
    asyncio.run(_raw_start(Raw(WorkerSettings(_cli_parse_args=flags))))


async def _raw_start(raw: Raw) -> None:
    began = time.perf_counter()
    engine_s = await raw.start()
    started = time.perf_counter()
    try:
        await raw.run(Workload("first", "", (Load([[0]], config(1, 2)),)))
        parts = {"import": started - began - engine_s, "engine": engine_s, "first": time.perf_counter() - started}
        sys.stdout.write(json.dumps(parts) + "\n")
        sys.stdout.flush()
    finally:
        raw.close()


class Opened:
    """Counts how often any process opens a file inside the block."""

    def __init__(self, path: Path) -> None:
        self.times = 0
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.inotify_init1(os.O_CLOEXEC)
        if self._fd < 0 or self._libc.inotify_add_watch(self._fd, os.fsencode(path), _IN_OPEN) < 0:
            raise OSError(ctypes.get_errno(), f"inotify: {path}")
        self._reading = threading.Thread(target=self._read, daemon=True)

    def _read(self) -> None:
        # Read at once: the kernel merges equal events that wait.
        while events := os.read(self._fd, 4096):
            for place in range(0, len(events), _EVENT.size):
                if not _EVENT.unpack_from(events, place)[1] & _IN_OPEN:
                    return
                self.times += 1

    def __enter__(self) -> Self:
        self._reading.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._libc.inotify_rm_watch(self._fd, 1)  # the watch's last event ends the thread
        self._reading.join()
        os.close(self._fd)


def start_raw(flags: list[str], log: Path) -> tuple[float, dict[str, float]]:
    """Seconds from the start of the process to its first answer, and those of its parts."""
    began = time.perf_counter()
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            [sys.executable, "-c", RAW.format(flags=flags)], cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True,
            preexec_fn=die_with_parent(),  # noqa: PLW1509 - one prctl and one getppid, no lock is taken
        ) as process,
    ):  # fmt: skip
        line = process.stdout.readline() if process.stdout is not None else ""
        seconds = time.perf_counter() - began
    if process.returncode:
        raise StartFailedError(f"AsyncLLM alone: exit code {process.returncode}\n{log.read_text()[-2000:]}")
    return seconds, json.loads(line)


def start_worker(fleet: Fleet, *flags: str) -> float:
    """Seconds from the start of the process until it serves."""
    worker = fleet.start(POLICY, *flags)
    seconds = worker.wait_until_serving()
    worker.end()
    return seconds


def workers(fleet: Fleet, engines: Engines, folder: Path, repeats: int) -> Scenario:
    """vLLM alone and the worker, in turns; an uncounted first round fills the caches of disk and compiler."""
    runs: dict[str, list[float]] = {"AsyncLLM alone": [], "rollstream-worker": []}
    parts, opened = [], []
    flags = engines.flags()
    weights = engines.model.folder / "model.safetensors"
    for number in range(repeats + 1):
        with Opened(weights) as by_raw:
            seconds, spent = start_raw(["--policy", POLICY, *flags], folder / "raw.log")
        with Opened(weights) as by_worker:
            ours = start_worker(fleet, *flags)
        opened.append({"AsyncLLM alone": by_raw.times, "rollstream-worker": by_worker.times})
        if number:
            runs["AsyncLLM alone"].append(seconds)
            runs["rollstream-worker"].append(ours)
            parts.append({name: round(value, 3) for name, value in spent.items()})
    about = "a fresh process, until it serves; for AsyncLLM: until it has answered a request"
    details = {"parts_of_AsyncLLM_s": parts, "weights_opened": opened}
    return Scenario("start", about, "s", "AsyncLLM alone", runs, details)


def stubs(fleet: Fleet, repeats: int) -> Scenario:
    """The start of a worker without vLLM."""
    runs = [start_worker(fleet, "--engine", "stub") for _ in range(repeats + 1)][1:]
    return Scenario("start, stub engine", "a fresh process, until it serves", "s", "", {"rollstream-worker": runs})


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine.start", description=__doc__)
    add_engine_flags(parser)
    parser.add_argument("--repeats", type=int, default=5, help="counted runs of each (default: %(default)s)")
    parser.add_argument("--no-vllm", action="store_true", help="only imports and a worker with the stub engine")
    arguments = parser.parse_args()
    prepare(arguments.model)
    with tempfile.TemporaryDirectory(prefix="rollstream-bench-") as temporary:
        folder = arguments.folder or Path(temporary)
        with bench_redis(arguments.redis) as url, Fleet(url, Path(temporary)) as fleet:
            found, settings = [imports(arguments.repeats), stubs(fleet, arguments.repeats)], {}
            if not arguments.no_vllm:
                model = make(arguments.model, folder, weights=True)
                engines = Engines(model, arguments.max_num_seqs, arguments.kv_cache_bytes, arguments.memory)
                found.append(workers(fleet, engines, Path(temporary), arguments.repeats))
                settings = shown_engines(engines)
    report.finish(Report("start", found, settings), arguments.out)


if __name__ == "__main__":
    main()
