"""The main path over one way to Redis: what a trainer, a worker, an operator and Prometheus do with a policy."""

from __future__ import annotations

import contextlib
import json
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rollstream import Client
from rollstream.transport.redis.access import RedisAccess
from tests.support.command_line import Command
from tests.support.fault_steps import stub_flags, tokens
from tests.support.watching.exporters import exporting
from tests.support.worker_process import WorkerProcess

POISON = 13


def set_variables(access: RedisAccess, monkeypatch: pytest.MonkeyPatch) -> None:
    """What workers and commands are started with from now on, as a deployment would."""
    monkeypatch.setenv("ROLLSTREAM_REDIS", access.url)
    for name in ("ca", "cert", "key", "password_file", "sentinel_password_file"):
        if (value := getattr(access, name)) is not None:
            monkeypatch.setenv(f"ROLLSTREAM_REDIS_{name.upper()}", str(value))


@dataclass(frozen=True, slots=True, kw_only=True)
class MainPath:
    """`looks`: the URL by which the test itself looks at the same server. Everything else goes by `access`."""

    access: RedisAccess
    looks: str
    policy: str
    steps: Path
    adapters: Path
    folder: Path

    def run(self) -> None:
        """All of it; each step asserts that it worked."""
        with self.client() as client:
            with self.worker() as worker:
                self._sample(client)
                self._swap(client)
                self._cancel(client)
                self._operate()
                self._scrape()
                worker.process.terminate()
                assert worker.process.wait(30) == 0, worker.log
            self._die(client)

    def client(self) -> Client:
        """A trainer's client."""
        return Client(self.access, policy=self.policy, reconnect_s=10)

    @contextlib.contextmanager
    def worker(self, *flags: str) -> Iterator[WorkerProcess]:
        """A stub that serves, started by variables alone."""
        words = [
            "--redis", self.access.url, *stub_flags(), "--checkpoint-dir", str(self.steps), "--lora",
            "--adapter-cache", str(self.folder / "cache"), "--metrics-port", "auto", "--max-deliveries", "1",
            "--stub-poison-token", str(POISON), *flags,
        ]  # fmt: skip
        worker = WorkerProcess(self.looks, self.policy, *words)
        try:
            yield worker.wait_until_serving()
        finally:
            worker.end()

    def ok(self, *words: str) -> str:
        """What a command says on stdout, having succeeded."""
        done = Command(self.access.url, self.policy)(*words)
        assert done.exit_code == 0, (words, done.output, done.stderr)
        return str(done.stdout)

    def _sample(self, client: Client) -> None:
        found = client.generate([[1, 2], [3]], None, tokens(4), batch_id="first", timeout=30)
        assert found.errors == {}
        adapter = client.publish_adapter("math", 1, self.adapters / "math@1")
        assert client.generate([[4]], None, tokens(2), adapter=adapter, timeout=30).errors == {}

    def _swap(self, client: Client) -> None:
        client.publish_policy(1, checkpoint=self.steps / "step-1")
        client.wait_for_version(1, timeout=30)
        found = client.generate([[5]], None, tokens(2), min_policy_version=1, timeout=30)
        assert found.errors == {}

    def _cancel(self, client: Client) -> None:
        handle = client.submit([[6]], None, tokens(2), min_policy_version=99, batch_id="gone")
        self.ok("cancel", "gone")
        (error,) = handle.result(timeout=30).errors.values()
        assert error.code == "cancelled"

    def _operate(self) -> None:
        self.ok("replay", "--batch", "first")
        self.ok("doctor")
        (worker,) = json.loads(self.ok("status", "--json"))["workers"]
        port = worker["fields"]["metrics_port"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as reply:
            assert b"rollstream_worker" in reply.read()

    def _scrape(self) -> None:
        with exporting(self.access.url, self.policy) as exporter:
            assert exporter.is_up()

    def _die(self, client: Client) -> None:
        """A job kills its worker; the next one buries it."""
        with self.worker() as worker:
            handle = client.submit([[POISON]], None, tokens(2), batch_id="poison")
            assert worker.process.wait(30) != 0
        with self.worker():
            (error,) = handle.result(timeout=30).errors.values()
        assert error.code == "too_many_deliveries"
        (letter,) = self.ok("dead", "ls", "--json").splitlines()
        assert "poison" in letter
        self.ok("dead", "drop", "--all", "--yes")
