"""Stub workers that keep partials, faults at random moments, and the account of every token that was sampled."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

from rollstream.producer.demo.embedded_redis import EmbeddedRedis, die_with_parent
from tests.support.processes.audited_stub import AUDIT
from tests.support.worker_process import ROOT, wait_for

FaultKind = Literal["kill", "drain", "freeze", "engine", "redis"]
FAULTS: tuple[FaultKind, ...] = get_args(FaultKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much runs, and how fast."""

    prompts: int
    samples: int
    tokens: int
    tokens_per_s: int
    workers: int
    at_once: int
    """Sequences that one worker runs."""
    keep_s: float
    faults: int
    pause_s: float
    """Mean seconds between two faults."""
    lease_s: float = 2.0
    """Longer than Redis takes to restart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One engine request for one sample: how long the sample was when it began and when it ended."""

    began: float
    at_begin: int
    at_end: int


@dataclass(kw_only=True)
class Account:
    """What the engines sampled, by sample."""

    runs: dict[tuple[int, int], list[Run]] = field(default_factory=lambda: defaultdict(list))

    @property
    def generated(self) -> int:
        return sum(run.at_end - run.at_begin for runs in self.runs.values() for run in runs)

    @property
    def twice(self) -> list[int]:
        """How many tokens a run had sampled in vain, for each time that a sample was gone on from."""
        found = []
        for runs in self.runs.values():
            ordered = sorted(runs, key=lambda run: run.began)
            found += [max(0, before.at_end - after.at_begin) for before, after in pairwise(ordered)]
        return found


class Arena:
    """Workers of one policy; each that is lost is replaced."""

    def __init__(self, redis: EmbeddedRedis, policy: str, scale: Scale, seed: int) -> None:
        self._server, self._policy, self._scale = redis, policy, scale
        self._random = random.Random(seed)
        self._file = tempfile.NamedTemporaryFile(prefix="audit-", suffix=".jsonl")  # noqa: SIM115 - as long as the arena
        self.workers: dict[subprocess.Popen[bytes], Path] = {}
        """Those that run, each with its log."""
        self._logs: list[Path] = []
        self._cuts: list[tuple[int, float]] = []
        """Processes, and when each of them was killed, or stopped for longer than its lease."""
        self.done: list[FaultKind] = []

    @contextmanager
    def serving(self) -> Iterator[None]:
        try:
            for _ in range(self._scale.workers):
                self.start()
            for log in self._logs:
                wait_for(lambda log=log: "serving  " in log.read_text(), 60, log.read_text)  # type: ignore[misc]
            yield
        finally:
            for worker in self.workers:
                worker.send_signal(signal.SIGCONT)
                worker.kill()
                worker.wait()
            for log in self._logs:
                log.unlink(missing_ok=True)

    def strike(self, kinds: Sequence[FaultKind]) -> None:
        """One fault after another, with pauses of random length."""
        for kind in kinds:
            time.sleep(self._random.uniform(0.5, 1.5) * self._scale.pause_s)
            worker = self._random.choice(self._serving())
            getattr(self, f"_{kind}")(worker)
            self.done.append(kind)

    @property
    def log(self) -> str:
        return "\n---\n".join(log.read_text(errors="replace")[-3000:] for log in self._logs)

    def start(self) -> None:
        log = Path(tempfile.mkstemp(prefix="worker-", suffix=".log")[1])
        scale = self._scale
        flags = [
            "--policy", self._policy, "--redis", self._server.url, "--engine", "stub", "--stub-vocab-size", "32000",
            "--stub-tokens-per-s", str(scale.tokens_per_s), "--lease-s", str(scale.lease_s), "--heartbeat-s", "0.5",
            "--max-model-len", str(scale.tokens + 16), "--max-num-seqs", str(2 * scale.at_once),
            "--inflight-sequences", str(scale.at_once), "--keep-partials", str(scale.keep_s), "--grace-s", "0",
            "--max-deliveries", "100", "--max-interruptions", "100", "--log-format", "console",
            "--inflight-bytes", str(2**30),
        ]  # fmt: skip
        with log.open("wb") as out:
            worker = subprocess.Popen(
                [sys.executable, "-m", "tests.support.processes.audited_stub", *flags],
                cwd=ROOT, env={**os.environ, AUDIT: self._file.name}, stdout=out, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, preexec_fn=die_with_parent(),
            )  # fmt: skip
        self.workers[worker] = log
        self._logs.append(log)

    def _serving(self) -> list[subprocess.Popen[bytes]]:
        """Those that can be struck, at least one; a worker that still starts holds no job."""
        found: list[subprocess.Popen[bytes]] = []

        def some_serve() -> bool:
            found[:] = [worker for worker, log in self.workers.items() if "serving  " in log.read_text()]
            return bool(found)

        wait_for(some_serve, 60, lambda: self.log)
        return found

    def _end(self, worker: subprocess.Popen[bytes], expected: int) -> None:
        del self.workers[worker]
        assert worker.wait(30) == expected, self.log
        self.start()

    def _kill(self, worker: subprocess.Popen[bytes]) -> None:
        worker.kill()
        self._cuts.append((worker.pid, time.time()))
        self._end(worker, -signal.SIGKILL)

    def _drain(self, worker: subprocess.Popen[bytes]) -> None:
        worker.terminate()
        self._end(worker, 0)

    def _engine(self, worker: subprocess.Popen[bytes]) -> None:
        worker.send_signal(signal.SIGUSR1)
        self._end(worker, 3)

    def _freeze(self, worker: subprocess.Popen[bytes]) -> None:
        worker.send_signal(signal.SIGSTOP)
        self._cuts.append((worker.pid, time.time()))
        time.sleep(self._scale.lease_s + 1)
        worker.send_signal(signal.SIGCONT)

    def _redis(self, _worker: subprocess.Popen[bytes]) -> None:
        self._server.stop()
        self._server.start()

    def begun(self) -> int:
        """How many requests the engines were asked for."""
        return sum('"begin"' in line for line in Path(self._file.name).read_text().splitlines())

    def account(self, prompt_tokens: int) -> Account:
        """What the audit file says, with the ends that no engine could write down."""
        found = Account()
        begun: dict[tuple[int, str], dict[str, float]] = {}
        for line in Path(self._file.name).read_text().splitlines():
            told = json.loads(line)
            name = told["pid"], told["id"]
            if told["what"] == "begin":
                begun[name] = told
            else:
                self._add(found, begun.pop(name), told["id"], told["at"], prompt_tokens)
        for (_, request_id), told in begun.items():
            self._add(found, told, request_id, time.time(), prompt_tokens)
        return found

    def _add(self, found: Account, begin: dict[str, float], request_id: str, end: float, prompt_tokens: int) -> None:
        cuts = (at for pid, at in self._cuts if pid == begin["pid"] and at >= begin["at"])
        spent = int((min([end, *cuts]) - begin["at"]) * self._scale.tokens_per_s)
        _, group, _, *sample = request_id.split("/")
        numbers = [int(sample[0])] if sample else range(int(begin["samples"]))
        at_begin = int(begin["prompt"]) - prompt_tokens
        run = Run(began=begin["at"], at_begin=at_begin, at_end=min(self._scale.tokens, at_begin + spent))
        for number in numbers:
            found.runs[int(group), number].append(run)
