"""The demo's worker process: however the demo ends, the worker and its engine end too."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import redis

from rollstream.schemas import Keys, RollstreamError
from rollstream.schemas.hashes.worker_report import STATE_FIELD, WorkerState

from .embedded_redis import die_with_parent

START_TIMEOUT_S = 180
STOP_TIMEOUT_S = 15
LOG_TAIL_LINES = 25

SMALL_MODEL_ENV = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
"""A tiny model gains nothing from a second thread, and threads bound to a core wait whenever something else uses it."""


class WorkerFailedError(RollstreamError):
    """Raised when the demo's worker ends, or does not serve in time; the text ends with its log."""

    def __init__(self, problem: str, log_tail: str) -> None:
        super().__init__(f"the worker {problem}; the end of its log:\n{log_tail}")
        self.log_tail = log_tail


@contextlib.contextmanager
def serving_worker(
    redis_url: str, policy: str, model: Path, folder: Path, *flags: str, beside: int = 0
) -> Iterator[subprocess.Popen[bytes]]:
    """`python -m rollstream.worker FLAGS` on the CPU, in a session of its own so that the terminal's Ctrl-C reaches
    only the demo.

    The block runs once the worker serves, with its process; `beside`: how many workers of the policy serve already.
    Its log is in `folder`. Raises `WorkerFailedError`.
    """
    log = folder / "worker.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "rollstream.worker", "--policy", policy, "--redis", redis_url, "--model", str(model),
             "--heartbeat-s", "0.5", "--grace-s", "5", *flags],
            env=_environment(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent(),  # noqa: PLW1509 - one prctl and one getppid, no lock is taken
        )  # fmt: skip
    try:
        _wait_until_serving(process, redis_url, policy, log, beside)
        yield process
    finally:
        _end(process)


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    """`ours` without the settings of the operator's own workers: the demo's worker obeys its flags alone."""
    kept = {name: value for name, value in ours.items() if not name.upper().startswith("ROLLSTREAM_")}
    return {**SMALL_MODEL_ENV, **kept}


def _end(process: subprocess.Popen[bytes]) -> None:
    again = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave the engine running
    try:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        # The worker leads a process group, and its engine is in it even before the engine has loaded our plugin.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    finally:
        signal.signal(signal.SIGINT, again)


def _wait_until_serving(process: subprocess.Popen[bytes], redis_url: str, policy: str, log: Path, beside: int) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    with redis.Redis.from_url(redis_url) as client:
        while _serving(client, policy) <= beside:
            if process.poll() is not None:
                raise WorkerFailedError(f"exited with {process.returncode}", _tail(log))
            if time.monotonic() > deadline:
                raise WorkerFailedError(f"did not serve within {START_TIMEOUT_S} s", _tail(log))
            time.sleep(0.1)


def _serving(client: redis.Redis, policy: str) -> int:
    """How many workers of the policy serve."""
    keys = Keys(policy)
    workers = cast("list[bytes]", client.zrange(keys.workers(), 0, -1))
    states = (client.hget(keys.worker(worker.decode()), STATE_FIELD) for worker in workers)
    return sum(state == WorkerState.SERVING.encode() for state in states)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
