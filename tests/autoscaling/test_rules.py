"""The controller of the trial decides as KEDA and the HPA do."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.autoscaling.rules import Autoscaler, Direction, Rules

SCALED_OBJECT = Path(__file__).parents[2] / "deploy/k8s/components/keda/scaledobject.yaml"
AT_ONCE = Direction(stabilization_s=1, percent=10_000, pods=100, period_s=1)
"""Nothing holds a decision back."""
PLAIN = Rules(target=100, most=8, cooldown_s=600, up=AT_ONCE, down=AT_ONCE)


@pytest.mark.parametrize(
    ("worker_seconds", "current", "wanted"),
    [
        (0.0, 0, 0), (0.001, 0, 1), (5000.0, 0, 1),
        (0.0, 3, 1), (100.0, 3, 1), (101.0, 1, 1), (111.0, 1, 2), (329.0, 3, 3), (331.0, 3, 4), (269.0, 3, 3),
        (200.0, 3, 2), (5000.0, 3, 8), (None, 3, 3), (None, 0, 0),
    ],
    ids=[
        "none for nothing", "any work starts one", "and only one, before the HPA has its say",
        "one stays until it has cooled down", "what one answers in time needs one", "within the tolerance",
        "above it", "a tenth more for three", "more than that", "a tenth less for three", "fewer", "never more",
        "unknown changes nothing", "unknown starts nothing",
    ],
)  # fmt: skip
def test_the_formula(worker_seconds: float | None, current: int, wanted: int) -> None:
    scaler = Autoscaler(PLAIN)
    scaler.step(0, 1.0, 1)  # there was work

    assert scaler.step(10, worker_seconds, current) == wanted


def test_the_numbers_are_those_of_the_scaled_object() -> None:
    spec = yaml.safe_load(SCALED_OBJECT.read_text())["spec"]
    (trigger,) = spec["triggers"]
    asked = trigger["metadata"]
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]

    found = Rules(
        target=float(asked["targetValue"]),
        activation=float(asked["activationTargetValue"]),
        cooldown_s=spec["cooldownPeriod"],
        up=direction(behavior["scaleUp"]),
        down=direction(behavior["scaleDown"]),
    )

    assert found == Rules()
    assert (trigger["metricType"], asked["valueLocation"]) == ("AverageValue", "worker_seconds"), "another formula"
    assert (spec["minReplicaCount"], spec["fallback"]["behavior"]) == (0, "currentReplicasIfHigher")


def direction(told: dict[str, Any]) -> Direction:
    policies = {one["type"]: one for one in told["policies"]}
    assert told["selectPolicy"] == "Max"
    assert policies["Percent"]["periodSeconds"] == policies["Pods"]["periodSeconds"]
    return Direction(
        stabilization_s=told["stabilizationWindowSeconds"],
        percent=policies["Percent"]["value"],
        pods=policies["Pods"]["value"],
        period_s=policies["Pods"]["periodSeconds"],
    )


def course(rules: Rules, *looks: tuple[float, float], current: int) -> list[int]:
    """The number of workers after each look (time, work), if all start and end at once."""
    scaler, found = Autoscaler(rules), []
    for now, worker_seconds in looks:
        current = scaler.step(now, worker_seconds, current)
        found.append(current)
    return found


def test_the_last_workers_go_once_there_was_no_work_for_the_whole_cool_down() -> None:
    assert course(PLAIN, (0, 300), (10, 0), (599, 0), (600, 0), (700, 0), current=3) == [3, 1, 1, 0, 0]
    assert course(PLAIN, (0, 300), (500, 1), (1099, 0), (1100, 0), (1200, 50), current=3) == [3, 1, 1, 0, 1]


def test_workers_are_added_when_they_were_wanted_for_the_whole_window_and_not_all_at_once() -> None:
    rules = Rules(target=100, most=40, up=Direction(stabilization_s=30, percent=100, pods=4, period_s=60), down=AT_ONCE)

    looks = [(float(now), 4000.0 if now else 100.0) for now in range(0, 150, 15)]

    assert course(rules, *looks, current=1) == [1, 1, 5, 5, 5, 5, 10, 10, 10, 10]


def test_workers_are_stopped_a_few_at_a_time_after_fewer_were_wanted_for_the_whole_window() -> None:
    rules = Rules(target=100, down=Direction(stabilization_s=300, percent=25, pods=1, period_s=60), up=AT_ONCE)

    found = course(rules, (0, 800), *((float(now), 90.0) for now in range(15, 600, 15)), current=8)

    assert found[:20] == [8] * 20
    assert [after for before, after in pairwise(found) if after != before] == [6, 4, 3, 2, 1]


def test_a_dip_shorter_than_the_window_stops_nobody() -> None:
    rules = Rules(target=100, up=AT_ONCE)

    assert course(rules, (0, 500), (60, 0), (120, 0), (180, 500), (420, 500), (470, 10), current=5) == [5] * 6
