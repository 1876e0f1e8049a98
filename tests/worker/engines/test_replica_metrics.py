"""Metrics of several engines are one family each, in which every engine has its own series."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, generate_latest

from rollstream.worker.engine import Collector
from rollstream.worker.engines.replica_metrics import ReplicaMetrics


def counted(**values: float) -> Collector:
    registry = CollectorRegistry()
    for name, value in values.items():
        Counter(name, "help", ["replica", "why"], registry=registry).labels("0", "end").inc(value)
    return registry


def text(*engines: list[Collector]) -> list[str]:
    registry = CollectorRegistry()
    registry.register(ReplicaMetrics(engines=engines))
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


def test_each_engine_has_its_own_series_of_one_family() -> None:
    assert text([counted(tokens=3)], [counted(tokens=5)]) == [
        "# HELP tokens_total help",
        "# TYPE tokens_total counter",
        'tokens_total{replica="0",why="end"} 3.0',
        'tokens_total{replica="1",why="end"} 5.0',
    ]


def test_what_only_one_engine_has_is_there_under_that_engine() -> None:
    found = text([counted(tokens=3)], [counted(tokens=5), counted(drafts=7)])

    assert 'drafts_total{replica="1",why="end"} 7.0' in found


def test_a_second_reading_says_the_same() -> None:
    engines = [counted(tokens=3)], [counted(tokens=5)]

    assert text(*engines) == text(*engines)
