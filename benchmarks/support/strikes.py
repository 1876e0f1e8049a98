"""What a benchmark does to a fleet while it measures: a schedule of faults, and workers that are started again."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, get_args

from benchmarks.support import report
from benchmarks.support.fleet import WorkerFailedError, WorkerProcess
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.schemas import RollstreamError
from tests.support.faults import Link

Kind = Literal["kill", "drain", "freeze", "cut", "redis"]
KINDS: tuple[str, ...] = get_args(Kind)
MOST_ENDS = 3
"""A worker that has ended so often by itself will not serve."""
NEW_LINE = "\n"


class BadScheduleError(RollstreamError):
    """Raised for a line of a schedule that is no fault."""


@dataclass(frozen=True, kw_only=True)
class Strike:
    """One fault."""

    at: float
    """Share of the window that has passed, 0 to 1."""
    kind: str
    """`kill`: SIGKILL of a worker. `drain`: SIGTERM with `--grace-s 0`. `freeze`: SIGSTOP. `cut`: its link to Redis is
    down. `redis`: Redis is killed and started again, with its append-only file."""
    worker: int = 0
    lasts_s: float = 0.0

    def __str__(self) -> str:
        who = "" if self.kind == "redis" else f" {self.worker}"
        return f"{self.at:g} {self.kind}{who}" + (f" for {self.lasts_s:g}" if self.lasts_s else "")


def schedule(lease_s: float, workers: int) -> list[Strike]:
    """Every kind of fault, in one window; what lasts outlasts the lease. A killed worker is started again at once."""
    longer = 1.5 * lease_s
    found = [
        Strike(at=0.05, kind="kill", worker=0),
        Strike(at=0.20, kind="freeze", worker=1, lasts_s=longer),
        Strike(at=0.35, kind="cut", worker=2, lasts_s=longer),
        Strike(at=0.45, kind="redis", lasts_s=1.0),
        Strike(at=0.55, kind="drain", worker=3),
        Strike(at=0.70, kind="kill", worker=1),
        Strike(at=0.85, kind="kill", worker=2),
    ]
    return [Strike(at=one.at, kind=one.kind, worker=one.worker % workers, lasts_s=one.lasts_s) for one in found]


def read_schedule(text: str, workers: int) -> list[Strike]:
    """A schedule with one fault a line, `0.2 freeze 1 for 6`; `#` begins a comment. Raises `BadScheduleError`."""
    lines = (line.partition("#")[0].split() for line in text.splitlines())
    return sorted((_strike(words, workers) for words in lines if words), key=lambda one: one.at)


def _strike(words: Sequence[str], workers: int) -> Strike:
    try:
        at, kind, *rest = words
        worker = 0 if kind == "redis" else int(rest.pop(0))
        lasts_s = float(rest[1]) if rest[:1] == ["for"] else 0.0
        if kind in KINDS and 0 <= float(at) <= 1 and 0 <= worker < workers and len(rest) in (0, 2) and lasts_s >= 0:
            return Strike(at=float(at), kind=kind, worker=worker, lasts_s=lasts_s)
    except (ValueError, IndexError):
        pass
    form = f"SHARE KIND WORKER [for SECONDS], with a kind of {', '.join(KINDS)} and a worker below {workers}"
    raise BadScheduleError(f"{' '.join(words)!r}: write {form}; redis needs no worker")


@dataclass(kw_only=True)
class StruckFleet:
    """Workers behind links of their own. `tend` undoes what is due and starts what has ended; call it often.

    Use it as `with`, in the main thread: it starts processes that must not outlive it.
    """

    server: EmbeddedRedis
    policy: str
    folder: Path
    flags: Sequence[str]
    environments: Sequence[Mapping[str, str]]
    """One for each worker."""
    struck: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    ended: Counter[int] = field(default_factory=Counter)
    """How often each worker has ended although nothing was done to it."""
    _links: list[Link] = field(default_factory=list)
    _workers: list[WorkerProcess] = field(default_factory=list)
    _undo: list[tuple[float, Callable[[], None]]] = field(default_factory=list)
    _open: ExitStack = field(default_factory=ExitStack)
    _told_to_end: set[int] = field(default_factory=set)

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            self._links = [opened.enter_context(Link(self.server.url)) for _ in self.environments]
            opened.callback(self._end)
            self._workers = [self._start(which) for which in range(len(self._links))]
            self._open = opened.pop_all()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._open.close()

    @property
    def pids(self) -> set[str]:
        """Process ids of the workers that run now, as they stand in consumers' names."""
        return {f"-{worker.process.pid}-" for worker in self._workers}

    @property
    def quiet(self) -> bool:
        """Whether nothing waits to be undone."""
        return not self._undo

    def strike(self, one: Strike) -> None:
        """Cause it now."""
        self.struck[one.kind] += 1
        match one.kind:
            case "kill":
                self._signal(one.worker, signal.SIGKILL)
            case "drain":
                self._signal(one.worker, signal.SIGTERM)
            case "freeze":
                process = self._workers[one.worker].process
                self._signal(one.worker, signal.SIGSTOP)
                self._later(one.lasts_s, lambda: _send(process.pid, signal.SIGCONT))
            case "cut":
                self._links[one.worker].drop()
                self._later(one.lasts_s, self._links[one.worker].restore)
            case _:
                self.server.kill()
                self._later(one.lasts_s, self.server.start)

    def told(self) -> str:
        """What each worker is at: its process, how long ago that was started, and the last line of its log."""
        now = time.monotonic()
        return "; ".join(
            f"worker {which}: process {worker.process.pid}, started {now - worker.started_at:.0f} s ago, "
            f"{worker.log.rpartition(NEW_LINE)[2][:200]!r}"
            for which, worker in enumerate(self._workers)
        )

    def tend(self) -> None:
        """Undo what is due, and start workers that have ended.

        Raises `WorkerFailedError` for a worker that ends again and again although nothing is done to it.
        """
        now = time.monotonic()
        due = [undo for when, undo in self._undo if when <= now]
        self._undo = [(when, undo) for when, undo in self._undo if when > now]
        for undo in due:
            undo()
        for which, worker in enumerate(self._workers):
            if worker.process.poll() is not None:
                self._note_end(which)
                worker.end()
                self._workers[which] = self._start(which)

    def _note_end(self, which: int) -> None:
        worker = self._workers[which]
        if worker.process.pid in self._told_to_end:
            return
        self.ended[which] += 1
        problem = f"worker {which} exited with {worker.process.returncode} by itself"
        report.say(f"{problem}; the end of its log:\n{worker.log}")
        if self.ended[which] >= MOST_ENDS:
            raise WorkerFailedError(f"{problem}, {self.ended[which]} times; its log is above")

    def _start(self, which: int) -> WorkerProcess:
        self.starts += 1
        return WorkerProcess(self._links[which].url, self.policy, self.folder, self.flags, self.environments[which])

    def _later(self, seconds: float, undo: Callable[[], None]) -> None:
        self._undo.append((time.monotonic() + seconds, undo))

    def _signal(self, which: int, number: signal.Signals) -> None:
        process = self._workers[which].process
        if process.poll() is None:
            _send(process.pid, number)
            if number != signal.SIGSTOP:
                self._told_to_end.add(process.pid)

    def _end(self) -> None:
        for worker in self._workers:
            _send(worker.process.pid, signal.SIGCONT)  # a frozen one would not end by SIGTERM
            worker.process.kill()
        for worker in self._workers:
            worker.end()


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
