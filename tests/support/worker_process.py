"""Worker processes for tests: started as an operator would, waited for by what they report, never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import IO

import redis

from rollstream.producer.demo.embedded_redis import die_with_parent
from rollstream.schemas import Keys
from tests.support.processes import stub_nursery

ROOT = Path(__file__).parents[2]
NOT_FORKED = {"--replicas"}
"""Flags of workers that start workers."""


def started(
    flags: list[str], log: IO[bytes], env: dict[str, str] | None
) -> subprocess.Popen[bytes] | stub_nursery.Forked:
    whole_env = {**os.environ, **(env or {})}
    if sys.platform == "linux" and "stub" in flags and not NOT_FORKED & {*flags, *whole_env}:
        return stub_nursery.nursery().start(flags, log.name, whole_env)
    module = "tests.support.processes.halting_worker" if "HALT" in whole_env else "rollstream.worker"
    return subprocess.Popen(
        [sys.executable, "-m", module, *flags],
        cwd=ROOT,
        env=whole_env,
        stdout=log,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=die_with_parent(),
    )


class WorkerProcess:
    """A worker in a session of its own, with its log in a file."""

    def __init__(self, redis_url: str, policy: str, *flags: str, env: dict[str, str] | None = None) -> None:
        self.policy = policy
        self.redis_url = redis_url
        self._log = tempfile.NamedTemporaryFile(prefix="worker-", suffix=".log")  # noqa: SIM115 - lives as long as the process
        settings = ["--policy", policy, "--redis", redis_url, "--heartbeat-s", "0.2"]
        self.process = started([*settings, "--log-format", "console", "--log-level", "debug", *flags], self._log, env)

    @property
    def log(self) -> str:
        return Path(self._log.name).read_text(errors="replace")

    def wait_until_serving(self, timeout_s: float = 90, state: bytes = b"serving") -> WorkerProcess:
        keys = Keys(self.policy)
        with redis.Redis.from_url(self.redis_url) as client:

            def serving() -> bool:
                assert self.process.poll() is None, f"worker exited with {self.process.returncode}:\n{self.log}"
                mine = f"-{self.process.pid}-"
                found = [key for key in client.scan_iter(keys.worker("*")) if mine in key.decode()]
                return any(client.hget(key, "state") == state for key in found)

            wait_for(serving, timeout_s, lambda: self.log)
        return self

    def terminate(self, timeout_s: float = 30) -> int:
        """SIGTERM, and the exit code."""
        self.process.terminate()
        return self.process.wait(timeout_s)

    def end(self) -> None:
        """Whatever state it is in: the process and all it started are gone after this."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def running_worker(
    redis_url: str, policy: str, *flags: str, env: dict[str, str] | None = None, state: bytes = b"serving"
) -> Iterator[WorkerProcess]:
    """A worker that serves, or reports another `state`; ended in order at the end of the block."""
    worker = WorkerProcess(redis_url, policy, *flags, env=env)
    try:
        worker.wait_until_serving(state=state)
        yield worker
        if worker.process.poll() is None:
            worker.terminate()
    finally:
        worker.end()


def wait_for(state: Callable[[], bool], timeout_s: float, explain: Callable[[], str]) -> None:
    """Return once `state()` is true; fail with `explain()` when it is not within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not state():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.02)


async def until(state: Callable[[], Awaitable[object]], timeout_s: float = 20) -> None:
    """Return once `await state()` is true; fail when it is not within `timeout_s`."""
    async with asyncio.timeout(timeout_s):
        while not await state():  # noqa: ASYNC110 - the state is another process's
            await asyncio.sleep(0.02)


async def until_true(state: Callable[[], object], timeout_s: float = 20) -> None:
    """As `until`, for what this process can see by itself."""
    async with asyncio.timeout(timeout_s):
        while not state():  # noqa: ASYNC110 - the state is nobody's event
            await asyncio.sleep(0.02)


async def settled() -> None:
    """What was ready to run has run."""
    for _ in range(3):
        await asyncio.sleep(0)
