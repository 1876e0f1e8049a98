"""A real Prometheus asks a worker under load and an exporter: all names are there, rules record numbers, alerts see."""

from __future__ import annotations

import contextlib
import itertools
import math
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import redis as blocking

from rollstream import Client, ClientClosedError, GenerationConfig
from rollstream.producer.demo.embedded_redis import EmbeddedRedis, die_with_parent, free_port
from tests.deploy.prometheus_process import PROMETHEUS, Prometheus, running_prometheus
from tests.deploy.promql import FROM_TARGETS, OF_PROCESSES, OWN_METRICS, alerts, asked, exposed, expressions, rules
from tests.support.worker_process import ROOT, WorkerProcess, running_worker, wait_for

pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason="no prometheus on PATH (Debian: apt install prometheus)")
POLICY = "math-7b"
INTERVAL = "5s"


@dataclass(frozen=True)
class Watched:
    """A worker and an exporter that a Prometheus watches."""

    prometheus: Prometheus
    worker: WorkerProcess


@contextmanager
def running_exporter(redis_url: str, port: int) -> Iterator[None]:
    command = ["exporter", "--policy", POLICY, "--redis", redis_url, "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-m", "rollstream", *command],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        preexec_fn=die_with_parent(),
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def load(redis_url: str) -> Iterator[None]:
    """Small batches, one after the other, until the end of the block."""

    def submit() -> None:
        with contextlib.suppress(ClientClosedError):
            while True:
                client.generate([[5, 6, 7]] * 8, None, GenerationConfig(max_new_tokens=20, num_return_sequences=2))

    with Client(redis_url, policy=POLICY) as client:
        thread = threading.Thread(target=submit)
        thread.start()
        yield
    thread.join(60)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    worker_port, exporter_port = free_port(), free_port()
    flags = ("--engine", "stub", "--stub-vocab-size", "1000", "--stub-tokens-per-s", "200", "--heartbeat-s", "1")
    targets = {
        f"{name}.yml": [{"targets": [f"127.0.0.1:{port}"], "labels": {"policy": POLICY}}]
        for name, port in (("workers", worker_port), ("exporter", exporter_port))
    }
    with EmbeddedRedis() as server:
        with blocking.Redis.from_url(server.url) as client:
            client.config_set("maxmemory", 2**30)
        with (
            running_worker(server.url, POLICY, *flags, "--metrics-port", str(worker_port)) as worker,
            running_exporter(server.url, exporter_port),
            running_prometheus(tmp_path_factory.mktemp("prometheus"), targets) as prometheus,
        ):
            wait_for(lambda: len(prometheus.values("up == 1")) == 2, 30, lambda: str(prometheus.values("up")))
            with load(server.url):
                yield Watched(prometheus, worker)


def filled_in(expr: str) -> str:
    """A board's expression as Grafana sends it."""
    return expr.replace("$policy", ".*").replace("$__rate_interval", INTERVAL)


def test_each_recording_rule_comes_to_numbers(watched: Watched) -> None:
    names = [rule["record"] for rule in rules() if "record" in rule]

    def missing() -> list[str]:
        return [name for name in names if not watched.prometheus.values(name)]

    wait_for(lambda: not missing(), 30, lambda: f"not recorded: {missing()}")
    for name in names:
        for labels, value in watched.prometheus.values(name):
            assert math.isfinite(value), name
            assert labels["policy"] == POLICY, name
    assert all(value > 0 for _, value in watched.prometheus.values("policy:rollstream_tokens:rate1m"))


def scraped(prometheus: Prometheus) -> dict[str, dict[str, set[str]]]:
    """Each metric's labels, but for those of its target, and the values that they had."""
    found: dict[str, dict[str, set[str]]] = {}
    for labels in prometheus.ask("series", **{"match[]": '{__name__=~"rollstream_.*|process_.*"}'}):
        of_metric = found.setdefault(labels.pop("__name__"), {})
        for label in labels.keys() - FROM_TARGETS:
            of_metric.setdefault(label, set()).add(labels[label])
    return found


def test_a_scrape_has_every_metric_of_the_list_with_its_labels(watched: Watched) -> None:
    found = scraped(watched.prometheus)
    found["rollstream_build_info"].setdefault("vllm", {""})  # empty for the stub, and to Prometheus that is no label
    wanted = {name: set(labels) for metric in OWN_METRICS for name, labels in exposed(metric).items()}

    assert {name: set(labels) for name, labels in found.items() if name.startswith("rollstream_")} == wanted
    assert set(OF_PROCESSES) <= found.keys()


def test_a_scrape_has_every_value_of_a_label_that_boards_and_rules_ask_for(watched: Watched) -> None:
    found = scraped(watched.prometheus)

    for where, expr in expressions():
        for one in asked(expr):
            for label, value in one.matchers:
                if one.name in found and label not in FROM_TARGETS:
                    assert set(value.split("|")) <= found[one.name][label], f"{where}: {label} of {one.name}"


def test_prometheus_takes_every_expression_of_boards_and_rules(watched: Watched) -> None:
    for where, expr in expressions():
        assert isinstance(watched.prometheus.values(filled_in(expr)), list), where


def test_prometheus_evaluates_every_alert(watched: Watched) -> None:
    groups = watched.prometheus.ask("rules")["groups"]
    evaluated = {rule["name"]: rule for rule in itertools.chain(*(group["rules"] for group in groups))}

    assert {rule["alert"] for rule in alerts()} <= evaluated.keys()
    assert {name: rule["lastError"] for name, rule in evaluated.items() if rule.get("lastError")} == {}


def test_an_alert_sees_that_the_last_worker_was_killed(watched: Watched) -> None:
    def is_seen() -> bool:
        alerts = watched.prometheus.ask("alerts")["alerts"]
        return any(alert["labels"]["alertname"] == "RollstreamAllWorkersGone" for alert in alerts)

    def explain() -> str:
        return str(watched.prometheus.ask("alerts"))

    wait_for(lambda: not is_seen(), 30, explain)  # on a busy machine a beat may be late
    watched.worker.process.kill()
    wait_for(is_seen, 30, explain)
