"""Worker processes, started as an operator would; their logs are files, and none outlives the benchmark."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import psutil
import redis

from benchmarks.support.processes import LoggedProcess
from rollstream.schemas import Keys, RollstreamError
from rollstream.schemas.hashes.worker_report import STATE_FIELD, WorkerState


class WorkerFailedError(RollstreamError):
    """Raised when a worker ends before it serves, or takes too long; the text ends with its log."""


class WorkerProcess(LoggedProcess):
    """`python -m rollstream.worker FLAGS`."""

    def __init__(
        self,
        redis_url: str,
        policy: str,
        folder: Path,
        flags: Sequence[str],
        env: Mapping[str, str] | None = None,
        module: str = "rollstream.worker",
    ) -> None:
        """`module`: one that starts a worker with a difference."""
        self.policy = policy
        self._redis_url = redis_url
        super().__init__(
            [sys.executable, "-m", module, "--policy", policy, "--redis", redis_url,
             "--heartbeat-s", "0.5",
             "--grace-s", "2", *flags],
            folder / f"worker-{time.monotonic_ns()}.log",
            {name: value for name, value in os.environ.items() if not name.upper().startswith("ROLLSTREAM_")}
            | dict(env or {}),
        )  # fmt: skip

    def wait_until_serving(self) -> float:
        """Wait until it serves; returns the seconds since its start. Raises `WorkerFailedError`."""
        mine = f"-{self.process.pid}-"
        with redis.Redis.from_url(self._redis_url) as client:
            while not self._serves(client, mine):
                if (reason := self.why_it_does_not_serve()) is not None:
                    raise WorkerFailedError(f"the worker {reason}")
                time.sleep(0.1)
        return time.monotonic() - self.started_at

    def _serves(self, client: redis.Redis, mine: str) -> bool:
        keys = Keys(self.policy)
        found = [worker.decode() for worker in cast("list[bytes]", client.zrange(keys.workers(), 0, -1))]
        states = (client.hget(keys.worker(worker), STATE_FIELD) for worker in found if mine in worker)
        return any(state == WorkerState.SERVING.encode() for state in states)

    def cpu_s(self, *, with_engine: bool) -> float:
        """CPU seconds of the worker so far, and of its engine: on a busy machine they say more than the clock."""
        process = psutil.Process(self.process.pid)
        parts = [process, *(process.children(recursive=True) if with_engine else ())]
        times = [one.cpu_times() for one in parts]
        return float(sum(each.user + each.system for each in times))

    def kill(self) -> None:
        """Send SIGKILL to the worker alone; its engine ends with it, as always."""
        self.process.kill()
        self.process.wait()


class Fleet:
    """Workers of one Redis; ended with the block."""

    def __init__(self, redis_url: str, folder: Path) -> None:
        self._redis_url = redis_url
        self._folder = folder
        self.workers: list[WorkerProcess] = []

    def start(
        self, policy: str, *flags: str, env: Mapping[str, str] | None = None, module: str = "rollstream.worker"
    ) -> WorkerProcess:
        """Start one more worker, with these variables beside ours; it does not serve yet."""
        self.workers.append(WorkerProcess(self._redis_url, policy, self._folder, flags, env, module))
        return self.workers[-1]

    def end(self) -> None:
        """End all workers."""
        for worker in self.workers:
            worker.end()
        self.workers = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.end()
