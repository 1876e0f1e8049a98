"""Memory of `rollstream exporter` under load, minute by minute, with its slope.

Two stub workers answer small batches, one after the other, so that batches, history and workers change all the time.
One of the workers is killed every minute and another started, for names that come and go. The exporter is asked once a
second, which is as often as it reads.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.support import report
from benchmarks.support.report import Report, Scenario
from rollstream import Client, GenerationConfig
from rollstream.producer.demo.embedded_redis import EmbeddedRedis, die_with_parent, free_port

_RESIDENT = re.compile(r"^process_resident_memory_bytes (\S+)$", re.MULTILINE)
_POLICY = "memory"


@contextlib.contextmanager
def _process(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=die_with_parent(),  # noqa: PLW1509 - one prctl and one getppid, no lock is taken
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _worker(url: str) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    return _process("rollstream.worker", "--policy", _POLICY, "--redis", url, "--engine", "stub", "--lease-s", "5")


def _keep_submitting(url: str, pause_s: float, ended: threading.Event, count: list[int]) -> None:
    config = GenerationConfig(max_new_tokens=8, ignore_eos=True)
    with Client(url, policy=_POLICY) as client:
        while not ended.wait(pause_s):
            client.submit([[1, 2, 3]] * 8, None, config, prompts_per_job=2)
            count[0] += 1


def _resident_mib(port: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        found = _RESIDENT.search(reply.read().decode())
    return float(found[1]) / 2**20 if found else float("nan")


def _until_it_answers(port: int) -> None:
    for _ in range(300):
        with contextlib.suppress(OSError):
            _resident_mib(port)
            return
        time.sleep(0.2)


def measure(minutes: int, pause_s: float) -> tuple[list[float], int]:
    """MiB at the start and after each minute, and how many batches were submitted."""
    port, ended, count = free_port(), threading.Event(), [0]
    with EmbeddedRedis() as redis, _worker(redis.url):
        exporter = ["rollstream", "exporter", "--policy", _POLICY, "--redis", redis.url, "--port", str(port)]
        with _process(*exporter, "--host", "127.0.0.1"):
            _until_it_answers(port)
            load = threading.Thread(target=_keep_submitting, args=(redis.url, pause_s, ended, count))
            load.start()
            try:
                found = [_resident_mib(port)]
                for minute in range(minutes):
                    with _worker(redis.url):
                        found.append(_minute(port))
                    sys.stdout.write(f"minute {minute + 1}: {found[-1]:.1f} MiB, {count[0]} batches\n")
                    sys.stdout.flush()
            finally:
                ended.set()
                load.join()
    return found, count[0]


def _minute(port: int) -> float:
    """Ask once a second for a minute; the last answer."""
    last, end = float("nan"), time.monotonic() + 60
    while (left := end - time.monotonic()) > 0:
        last = _resident_mib(port)
        time.sleep(min(1.0, left))
    return last


def main() -> int:
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.queue.exporter_memory", description=__doc__)
    parser.add_argument("--minutes", type=int, default=10, help="(%(default)s)")
    parser.add_argument("--pause-s", type=float, default=0.1, help="between two batches (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "exporter-memory.json")
    arguments = parser.parse_args()
    found, batches = measure(arguments.minutes, arguments.pause_s)
    half = found[len(found) // 2 :]
    slope = float(np.polyfit(range(len(half)), half, 1)[0]) if len(half) > 1 else float("nan")
    details = {"batches": batches, "slope_mib_a_minute_of_the_second_half": round(slope, 3)}
    scenario = Scenario(
        "exporter", "resident memory at the start and after each minute", "MiB", "", {"": found}, details
    )
    report.write(arguments.out, [Report("exporter memory", [scenario])])
    sys.stdout.write(f"{[round(one, 1) for one in found]}\n{details}\nwritten to {arguments.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
