"""The exporter as a process, and what a scrape of it says."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families

from rollstream.producer.demo.embedded_redis import die_with_parent
from tests.support.worker_process import ROOT

Scraped = dict[str, dict[tuple[str, ...], float]]
"""Values by the values of the labels, in the order of their names, by metric."""


class Exporter:
    """`rollstream exporter` of one policy on a free port."""

    def __init__(self, redis_url: str, policy: str, *flags: str) -> None:
        words = ["exporter", "--redis", redis_url, "--policy", policy, "--port", "auto", "--host", "127.0.0.1", *flags]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rollstream", *words],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=die_with_parent(),
        )
        self.said = self._line()
        self.url = next(word for word in self.said.split() if word.startswith("http://")).rstrip(",")

    def _line(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.readline()

    def text(self, timeout_s: float = 20) -> str:
        """What a scrape answers."""
        with urllib.request.urlopen(self.url, timeout=timeout_s) as reply:
            answer: bytes = reply.read()
        return answer.decode()

    def scrape(self, timeout_s: float = 20) -> Scraped:
        """The same, read."""
        found: Scraped = {}
        for family in text_string_to_metric_families(self.text(timeout_s)):
            for sample in family.samples:
                labels = tuple(sample.labels[name] for name in sorted(sample.labels))
                found.setdefault(sample.name, {})[labels] = sample.value
        return found

    def is_up(self) -> bool:
        """Whether Redis answers it."""
        return self.scrape()["rollstream_redis_up"][()] == 1

    def end(self, by: int = signal.SIGTERM) -> int:
        """Its exit code."""
        self.process.send_signal(by)
        return self.process.wait(20)


@contextlib.contextmanager
def exporting(redis_url: str, policy: str, *flags: str) -> Iterator[Exporter]:
    """An exporter that serves; ended at the end of the block."""
    exporter = Exporter(redis_url, policy, *flags)
    try:
        yield exporter
    finally:
        exporter.process.kill()
        exporter.process.communicate()
