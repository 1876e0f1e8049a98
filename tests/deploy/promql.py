"""What expressions for Prometheus ask for: names of series, and the labels that they match or group by."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from rollstream.schemas.metrics import EngineMetric, Kind, Metric, QueueMetric, WorkerMetric, metrics_of
from tests.support.worker_process import ROOT

DEPLOY = ROOT / "deploy"
BOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
RULES = DEPLOY / "prometheus" / "rules.yml"
FROM_TARGETS = frozenset({"policy", "job", "instance"})
"""Labels that the scrape adds to each series."""
OWN_METRICS = (*metrics_of(WorkerMetric), *metrics_of(QueueMetric))
METRICS = (*OWN_METRICS, *metrics_of(EngineMetric))
OF_PROCESSES = ("process_resident_memory_bytes", "process_cpu_seconds_total")
"""What Prometheus' library says of the process that it is in."""

_SERIES = re.compile(r"(?<![\w:$])((?:rollstream_|policy:|vllm:|process_)\w[\w:]*|up)\b(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_GROUPED = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")


@dataclass(frozen=True, slots=True)
class Asked:
    """One series in an expression."""

    name: str
    matchers: tuple[tuple[str, str], ...]
    """Labels and what they are to be, without regular expressions that a board fills in."""


def asked(expr: str) -> list[Asked]:
    return [
        Asked(found[1], tuple((label, value) for label, _, value in _MATCHER.findall(found[2] or "")))
        for found in _SERIES.finditer(expr)
    ]


def grouped_by(expr: str) -> set[str]:
    return {label.strip() for labels in _GROUPED.findall(expr) for label in labels.split(",") if label.strip()}


def exposed(metric: Metric) -> dict[str, frozenset[str]]:
    """The names under which Prometheus has a metric, with the labels of each."""
    labels = frozenset(metric.labels)
    if metric.kind is Kind.COUNTER:
        return {f"{metric.name}_total": labels}
    if metric.kind is Kind.HISTOGRAM:
        return {f"{metric.name}_bucket": labels | {"le"}, f"{metric.name}_sum": labels, f"{metric.name}_count": labels}
    return {metric.name: labels}


def metric_named(name: str) -> Metric:
    return next(metric for metric in METRICS if name in exposed(metric))


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def known_series() -> dict[str, frozenset[str]]:
    """All that boards and rules may ask for, with the labels that it has beside those of its target."""
    known = dict.fromkeys(("up", *OF_PROCESSES), frozenset[str]())
    for metric in METRICS:
        known |= exposed(metric)
    return known | {rule["record"]: frozenset(grouped_by(rule["expr"])) for rule in rules() if "record" in rule}


def board_panels() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each panel that draws something, with the name of its board."""
    for path in BOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            if panel["type"] != "row":
                yield path.stem, panel


def expressions() -> list[tuple[str, str]]:
    """Where it stands, and the expression."""
    of_boards = [
        (f"{board}: {panel['title']}", target["expr"]) for board, panel in board_panels() for target in panel["targets"]
    ]
    return of_boards + [(rule.get("alert") or rule["record"], rule["expr"]) for rule in rules()]
