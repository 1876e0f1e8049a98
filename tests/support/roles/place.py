"""Where the users of a policy work: how each of them reaches Redis, and what they start."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rollstream import Client
from tests.support.command_line import Command
from tests.support.fault_steps import stub_flags
from tests.support.worker_process import WorkerProcess

IMAGE = 14
"""The stub's placeholder of an image."""


@dataclass(kw_only=True)
class Place:
    """`url_of` gives the URL of a role; `redis_url` is that of a user who may do all, on the server of the reports."""

    redis_url: str
    url_of: Callable[[str], str]
    policy: str
    model: Path
    folder: Path
    partitions: int = 1

    def client(self) -> Client:
        return Client(
            self.url_of("producer"), policy=self.policy, partitions=self.partitions, weights="redis", reconnect_s=5
        )

    @property
    def operator(self) -> Command:
        return Command(self.url_of("operator"), self.policy)

    def flags(self, *flags: str) -> list[str]:
        return [
            "--redis", self.url_of("worker"), *stub_flags(lease_s=1.0), "--model", str(self.model), "--lora",
            "--weights", "redis", "--weights-cache", str(self.folder / "cache"), "--weight-transfer", "gloo",
            "--adapter-cache", str(self.folder / "adapters"), "--stub-image-token", str(IMAGE), "--routed-experts",
            *flags,
        ]  # fmt: skip

    @contextlib.contextmanager
    def worker(self, *flags: str) -> Iterator[WorkerProcess]:
        worker = WorkerProcess(self.redis_url, self.policy, *self.flags(*flags))
        try:
            yield worker.wait_until_serving()
            if worker.process.poll() is None:
                worker.process.terminate()
            assert worker.process.wait(30) == 0, worker.log
        finally:
            worker.end()
        assert "NOPERM" not in worker.log, worker.log
        assert "ermission" not in worker.log, worker.log

    def ok(self, *words: str) -> str:
        done = self.operator(*words)
        assert done.exit_code == 0, (words, done.output, done.stderr)
        return str(done.stdout)
