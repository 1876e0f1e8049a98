"""The workers of a chaos run and their faults: a worker that ends is started again, each fault is undone in time."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack

from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from tests.chaos.plan import Fault
from tests.support.faults import Link
from tests.support.lua import digest
from tests.support.worker_process import WorkerProcess

DRAINED, POISONED = 0, 70
EARLY = -signal.SIGTERM
"""Exit code of a worker that was told to end before it served, or twice."""
EXPECTED_EXITS = (DRAINED, POISONED, EARLY, -signal.SIGKILL)
"""What chaos may do to a worker. Any other exit code is a worker that gave up by itself."""

UNEXPLAINED = 255
"""Stands for an end by SIGTERM of a worker that was draining."""

Undo = Callable[[], None]


class Fleet:
    """N stub workers and a producer, each behind a link of its own. Use as `with`, in the main thread.

    A target takes one fault at a time: the next waits until the last is undone.
    """

    def __init__(self, server: EmbeddedRedis, policy: str, count: int, flags: list[str]) -> None:
        self._server = server
        self._policy = policy
        self._flags = flags
        self._links = [Link(server.url) for _ in range(count + 1)]
        self._workers: list[WorkerProcess] = []
        self._undo: dict[int, tuple[float, Undo]] = {}
        self._waiting: list[Fault] = []
        self._open = ExitStack()
        self.struck: Counter[str] = Counter()
        self.exits: Counter[int] = Counter()
        self.logs: list[str] = []
        """Logs of workers that have ended."""

    @property
    def producer_url(self) -> str:
        """The producer's way to Redis."""
        return self._links[-1].url

    @property
    def lost_replies(self) -> int:
        """Replies that were lost in fact."""
        return sum(link.lost for link in self._links)

    @property
    def quiet(self) -> bool:
        """Nothing waits to strike or to be undone."""
        return not (self._waiting or self._undo)

    def __enter__(self) -> Fleet:
        with ExitStack() as opened:
            for link in self._links:
                opened.enter_context(link)
            opened.callback(self._kill_all)
            self._workers = [self._start(which) for which in range(len(self._links) - 1)]
            for worker in self._workers:
                worker.wait_until_serving()
            self._open = opened.pop_all()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._open.close()

    def _kill_all(self) -> None:
        for worker in self._workers:
            worker.end()

    def _start(self, which: int) -> WorkerProcess:
        return WorkerProcess(self._links[which].url, self._policy, *self._flags)

    def strike(self, fault: Fault) -> None:
        """Now, or as soon as its target is free."""
        self._waiting.append(fault)
        self.tend()

    def tend(self) -> None:
        """Undo faults that are due, start workers that have ended, cause faults that have waited. Call often."""
        now = time.monotonic()
        for target, (when, undo) in list(self._undo.items()):
            if now >= when:
                del self._undo[target]
                undo()
        for which, worker in enumerate(self._workers):
            if worker.process.poll() is not None:
                self._bury(worker)
                self._workers[which] = self._start(which)
        for fault in list(self._waiting):
            if self._target(fault) not in self._undo:
                self._waiting.remove(fault)
                self._strike(fault)

    def _target(self, fault: Fault) -> int:
        return len(self._links) if fault.kind.startswith("redis") else fault.target

    def _bury(self, worker: WorkerProcess) -> None:
        code, log = worker.process.returncode, worker.log
        # A second signal may also come when all is given back and the interpreter is on its way out.
        explained = code != EARLY or "draining" not in log or "second signal" in log or "drained" in log
        self.exits[code if explained else UNEXPLAINED] += 1
        self.logs.append(log)

    def _strike(self, fault: Fault) -> None:
        self.struck[fault.kind] += 1
        link = self._links[fault.target]
        undo: Undo | None = None
        match fault.kind:
            case "redis kill -9":
                self._server.kill()
                undo = self._server.start
            case "link freeze":
                link.freeze()
                undo = link.thaw
            case "link drop":
                link.drop()
                undo = link.restore
            case "lost reply":
                link.lose_reply(to=_call_of(fault.reply), holding=b"payload" if fault.reply == "XREADGROUP" else b"")
            case "SIGSTOP":
                self._signal(fault.target, signal.SIGSTOP)
                undo = lambda: self._signal(fault.target, signal.SIGCONT)  # noqa: E731
            case "SIGTERM":
                self._signal(fault.target, signal.SIGTERM)
            case _:
                self._signal(fault.target, signal.SIGKILL)
        if undo is not None:
            self._undo[self._target(fault)] = (time.monotonic() + fault.lasts_s, undo)

    def _signal(self, which: int, number: signal.Signals) -> None:
        process = self._workers[which].process
        if process.poll() is None:
            os.kill(process.pid, number)

    def drain(self, timeout_s: float = 20) -> None:
        """End every worker in order. One that does not end by then is killed, which its exit code tells."""
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            try:
                worker.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                worker.end()
            self._bury(worker)
        self._workers = []


def _call_of(name: str) -> bytes:
    """Bytes that a call has on the wire: a worker calls its scripts by digest, a producer sends the text."""
    if not name.endswith(".lua"):
        return name.encode()
    if name == "submit.lua":
        return b"EVAL"
    return digest(name)
