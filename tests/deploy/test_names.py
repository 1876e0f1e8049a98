"""Boards and rules ask only for what workers and exporters say: names, labels, and the values of labels."""

from __future__ import annotations

import re

from rollstream.schemas.hashes.worker_report import WorkerState
from rollstream.schemas.pause_reason import PauseReason
from tests.deploy.promql import (
    BOARDS,
    FROM_TARGETS,
    OWN_METRICS,
    asked,
    board_panels,
    exposed,
    expressions,
    grouped_by,
    known_series,
    metric_named,
)

KNOWN = known_series()
ENUMS = {"reason": set(PauseReason), "state": {*WorkerState, "late"}}


def test_every_series_that_is_asked_for_is_in_the_list_or_recorded() -> None:
    unknown = [(where, one.name) for where, expr in expressions() for one in asked(expr) if one.name not in KNOWN]
    unseen = [where for where, expr in expressions() if not asked(expr)]

    assert unknown == []
    assert unseen == [], "these ask for nothing that this test can see"


def test_every_label_that_is_asked_for_is_one_of_its_metric_or_of_its_target() -> None:
    for where, expr in expressions():
        series = asked(expr)
        for one in series:
            labels = {label for label, _ in one.matchers}
            assert labels <= KNOWN[one.name] | FROM_TARGETS, f"{where}: {one.name} has no {labels}"
        known = FROM_TARGETS.union(*(KNOWN[one.name] for one in series))
        assert grouped_by(expr) <= known, f"{where}: nothing in it has {grouped_by(expr) - known}"


def test_every_value_of_a_label_is_one_that_the_metric_can_have() -> None:
    own = [(where, one) for where, expr in expressions() for one in asked(expr) if one.name.startswith("rollstream_")]
    for where, one in own:
        for label, value in one.matchers:
            if label not in FROM_TARGETS:
                allowed = ENUMS.get(label, set()) | set(re.findall(r"\w+", metric_named(one.name).help))
                assert set(value.split("|")) <= allowed, f"{where}: {label} of {one.name} is never {value!r}"


def test_every_metric_is_on_a_board_or_in_a_rule() -> None:
    """The rest is for a person who looks at one worker."""
    shown = {one.name for _, expr in expressions() for one in asked(expr)}
    unseen = {metric.name for metric in OWN_METRICS if not shown & exposed(metric).keys()}

    assert unseen == {
        "rollstream_held_jobs",
        "rollstream_lease_renewals",
        "rollstream_newest_policy_version",
        "rollstream_policy_proof_largest_nats",
        "rollstream_policy_proof_mean_nats",
        "rollstream_policy_version_refused",
        "rollstream_prepared_policy_version",
        "rollstream_tokens_scored",
        "rollstream_worker_state",
    }


def test_there_are_two_boards() -> None:
    assert [path.stem for path in BOARDS] == ["operators", "researchers"]
    assert len(list(board_panels())) > 30
