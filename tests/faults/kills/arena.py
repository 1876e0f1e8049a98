"""A Redis, two stub workers that one trainer publishes to, and jobs all the time."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rollstream import Client, GenerationConfig
from rollstream.producer.demo.embedded_redis import EmbeddedRedis, die_with_parent
from rollstream.schemas import GroupResult
from tests.faults.kills.trainer import VOCABULARY, publish
from tests.support.fault_steps import kill, log_of, stub_flags, wait_until_done
from tests.support.faults import Queue, audit
from tests.support.processes.halts import Halt
from tests.support.weights.versions import report
from tests.support.worker_process import ROOT, WorkerProcess, wait_for

POLICY = "kills"
GROUPS = 6
WAIT_S = 120.0
"""Far more than anything takes; what is broken takes for ever."""
_LEASE_S = 3.0
_EVERY_S = 0.1
_PROVEN = re.compile(r"policy version proven\b.*\bversion=(\d+)")


class Arena:
    """Version 1 is served by all when the block begins. Use as `with`."""

    def __init__(self, folder: Path, model: Path, halt: str | None) -> None:
        """`halt`: where the first worker halts, once it is armed. It is alone where another might be quicker."""
        self._folder, self._model = folder, model
        self._is_alone = halt in ("activate", "activated")
        self.halt = None if halt is None else Halt(halt, folder / "halt")
        self.server = EmbeddedRedis(appendonly=True)
        self.workers: list[WorkerProcess] = []
        self._open = ExitStack()
        self._ended = threading.Event()
        self._batches: list[str] = []

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            opened.enter_context(self.server)
            (self._folder / "store").mkdir()
            self.queue = opened.enter_context(Queue(self.server.url, POLICY))
            self._client = opened.enter_context(
                Client(self.server.url, policy=POLICY, weights=self._folder / "store", reconnect_s=60)
            )
            opened.callback(self._end_workers)
            self._trainer = opened.enter_context(ThreadPoolExecutor(1))
            self._feeder = opened.enter_context(ThreadPoolExecutor(1))
            self.start_worker(None if self.halt is None else self.halt.env)
            if not self._is_alone:
                self.start_worker()
            for worker in self.workers:
                worker.wait_until_serving()
            opened.callback(self._ended.set)
            self._feeding = self._feeder.submit(self._feed)
            self.publish(1, "store").result(WAIT_S)
            self.wait_until_all_serve(1)
            self._open = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, trace)

    def start_worker(self, env: dict[str, str] | None = None) -> WorkerProcess:
        flags = (
            *stub_flags(group_s=0.05, at_once=16, lease_s=_LEASE_S), "--model", str(self._model), "--weights",
            str(self._folder / "store"), "--weights-cache", str(self._folder / "cache"), "--weight-transfer", "gloo",
        )  # fmt: skip
        self.workers.append(WorkerProcess(self.server.url, POLICY, *flags, env=env))
        return self.workers[-1]

    def publish(self, version: int, how: str, *, right: bool = True) -> Future[None]:
        """By a trainer that lives."""
        return self._trainer.submit(publish, self._client, self._model, version, how, right=right)

    def trainer(self, halt: Halt, version: int, how: str) -> subprocess.Popen[bytes]:
        """One that will be killed."""
        command = [sys.executable, "-m", "tests.faults.kills.trainer", self.server.url, POLICY]
        return subprocess.Popen(
            [*command, str(self._folder / "store"), str(self._model), str(version), how],
            cwd=ROOT, env=halt.env, preexec_fn=die_with_parent(),
        )  # fmt: skip

    def restart_redis(self) -> None:
        """It is killed, and is back with its data."""
        self.server.kill()
        self.server.start()

    def kill_first(self) -> WorkerProcess:
        """SIGKILL to the worker that halts; returns it."""
        kill(self.workers[0])
        return self.workers.pop(0)

    @property
    def log(self) -> str:
        return log_of(*self.workers)

    def wait_until_all_serve(self, version: int, refused: str = "") -> None:
        """`refused`: what they say of a newer one."""

        def serve() -> bool:
            seen = [report(worker, self.queue) for worker in self.workers]
            return all(
                one.get("policy_version") == str(version)
                and one.get("state") == "serving"
                and (refused in one["policy_error"] if refused else not one["policy_error"])
                for one in seen
            )

        wait_for(self._asked(serve), WAIT_S, lambda: f"version {version} is not served by all\n{self.log}")

    def audit(self, *others: WorkerProcess) -> tuple[int, set[int]]:
        """Ends the load. Every group has one answer, and of each token the worker had proven its version.

        A batch is submitted from now on before the load ends, so the version that is served now is among those that
        sampled, however long the load has waited for Redis. `others`: workers that were killed. Returns the number of
        groups and the versions that sampled.
        """
        enough = len(self._batches) + 2
        wait_for(lambda: len(self._batches) >= enough, WAIT_S, lambda: f"nothing is submitted\n{self.log}")
        self._ended.set()
        self._feeding.result(WAIT_S)
        proven = {
            f"-{worker.process.pid}-": {0, *map(int, _PROVEN.findall(worker.log))}
            for worker in (*self.workers, *others)
        }
        sampled: set[int] = set()
        for batch_id in self._batches:
            wait_until_done(self.queue, batch_id, GROUPS, *self.workers)
        wait_for(lambda: not self.queue.holders(), 30, lambda: f"pending: {self.queue.holders()}\n{self.log}")
        for batch_id in self._batches:
            for answer in audit(self.server.url, POLICY, batch_id, GROUPS):
                assert isinstance(answer, GroupResult), answer
                of = {version for spans in answer.version_spans for version, _ in spans}
                (mine,) = [versions for name, versions in proven.items() if name in answer.worker]
                assert of <= mine, f"{answer.worker} sampled under {of} and had proven {mine}"
                sampled |= of
        return GROUPS * len(self._batches), sampled

    def _end_workers(self) -> None:
        for worker in self.workers:
            worker.end()

    def _asked(self, look: Callable[[], bool]) -> Callable[[], bool]:
        """Whatever Redis and workers do meanwhile."""
        from redis.exceptions import RedisError

        def found() -> bool:
            try:
                return look()
            except RedisError:
                return False

        return found

    def _feed(self) -> None:
        config = GenerationConfig(max_new_tokens=10, ignore_eos=True)
        prompts: Any = [[5 + row] for row in range(GROUPS)]
        assert max(map(max, prompts)) < VOCABULARY
        with Client(self.server.url, policy=POLICY, reconnect_s=60) as client:
            while not self._ended.wait(_EVERY_S):
                self._batches.append(client.submit(prompts, None, config, prompts_per_job=2).batch_id)
