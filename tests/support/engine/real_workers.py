"""Workers on the real vLLM engine that test files share: a start takes longer than most tests, so few are made."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.worker_process import WorkerProcess

REAL_POLICY = "real"
"""What they all serve."""
ENGINE_TIMEOUT_S = 10.0
"""Short enough to wait for in a test, long enough for an engine on a busy machine."""
START_TIMEOUT_S = 180.0


class RealWorkers:
    """Worker processes of one model, started when asked for; ended, whatever state they are in, with the block."""

    def __init__(self, redis_url: str, model: Path, adapters: Path) -> None:
        self._redis_url = redis_url
        self._flags = (
            "--model", str(model), "--dtype", "float32", "--adapter-dir", str(adapters), "--max-num-seqs", "64",
            "--thinking-marks", "[ ]", "--lease-s", "3", "--engine-timeout-s", str(ENGINE_TIMEOUT_S),
        )  # fmt: skip
        self._workers: list[WorkerProcess] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.end()

    def serving(self, at_least: int = 1) -> list[WorkerProcess]:
        """All that still serve; those that lack are started, side by side. A test may end what it gets."""
        running = [worker for worker in self._workers if worker.process.poll() is None]
        started = [WorkerProcess(self._redis_url, REAL_POLICY, *self._flags) for _ in range(at_least - len(running))]
        self._workers += started
        for worker in started:
            worker.wait_until_serving(START_TIMEOUT_S)
        return running + started
