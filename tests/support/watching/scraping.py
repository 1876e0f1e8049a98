"""What Prometheus sees of a worker: scraped over HTTP and parsed by its own library."""

from __future__ import annotations

import re
import urllib.request

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.support.faults import Queue
from tests.support.weights.versions import report
from tests.support.worker_process import WorkerProcess, wait_for


class Scrape:
    """All families of one answer."""

    def __init__(self, text: str) -> None:
        self.families: dict[str, Metric] = {one.name: one for one in text_string_to_metric_families(text)}
        self._values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float | None:
        """The value of the sample with this full name, such as `rollstream_groups_total`; None if there is none."""
        return self._values.get((name, frozenset(labels.items())))

    def by(self, name: str, label: str) -> dict[str, float]:
        """Values of the samples with this full name by their only label."""
        return {dict(labels)[label]: value for (of, labels), value in self._values.items() if of == name}


def scrape(port: int) -> Scrape:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
        return Scrape(answer.read().decode())


def logged_port(worker: WorkerProcess) -> int:
    """Where a worker that was started with `--metrics-port auto` says that it is asked."""
    said = re.compile(r"metrics served.* port=(\d+)")
    wait_for(lambda: said.search(worker.log) is not None, 30, lambda: worker.log)
    return int(said.findall(worker.log)[0])


def scraped(worker: WorkerProcess, queue: Queue) -> Scrape:
    """The worker at the port that it reports."""
    return scrape(int(report(worker, queue)["metrics_port"]))


def wait_until_counted(worker: WorkerProcess, queue: Queue, name: str, **by_label: float) -> Scrape:
    """A scrape in which the samples of this full name have these values by their only label; others are 0.

    A worker that was frozen may have no report for a while.
    """
    metric = {"rollstream_groups_total": "outcome", "rollstream_jobs_total": "outcome"}.get(name, "cause")
    wait_for(lambda: "metrics_port" in report(worker, queue), 30, lambda: f"no report\n{worker.log}")

    def seen() -> dict[str, float]:
        return {label: value for label, value in scraped(worker, queue).by(name, metric).items() if value}

    wait_for(lambda: seen() == by_label, 30, lambda: f"{by_label}, not {seen()}\n{worker.log}")
    return scraped(worker, queue)
