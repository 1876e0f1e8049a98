"""Boards explain themselves, stay the same from one import to the next, and work with any Prometheus."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

import pytest
import yaml

from tests.deploy.promql import BOARDS, DEPLOY, board_panels

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
GRID = 24


def boards() -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in BOARDS}


def test_every_panel_has_a_title_a_description_and_a_unit() -> None:
    for board, panel in board_panels():
        assert panel["title"].strip(), f"{board}: a panel has no title"
        assert len(panel["description"]) > 20, f"{board}: {panel['title']} does not say what it shows"
        assert panel["fieldConfig"]["defaults"]["unit"], f"{board}: {panel['title']} has no unit"


def test_every_panel_asks_the_chosen_prometheus() -> None:
    for board, panel in board_panels():
        targets = panel["targets"]
        assert [panel["datasource"], *(target["datasource"] for target in targets)] == [DATASOURCE] * (len(targets) + 1)
        assert len({target["refId"] for target in targets}) == len(targets), f"{board}: {panel['title']}"


def test_every_expression_of_a_board_keeps_to_the_chosen_policies() -> None:
    for board, panel in board_panels():
        for target in panel["targets"]:
            assert 'policy=~"$policy"' in target["expr"], f"{board}: {panel['title']}"


@pytest.mark.parametrize("name", ["operators", "researchers"])
def test_a_board_has_a_lasting_uid_and_nothing_that_grafana_fills_in(name: str) -> None:
    board = boards()[name]

    assert board["uid"] == f"rollstream-{name}"
    assert not {"id", "version", "iteration", "gnetId", "__inputs"} & board.keys()
    assert {variable["name"] for variable in board["templating"]["list"]} == {"datasource", "policy"}


@pytest.mark.parametrize("name", ["operators", "researchers"])
def test_the_panels_of_a_board_have_numbers_and_places_of_their_own(name: str) -> None:
    panels = boards()[name]["panels"]
    places = [panel["gridPos"] for panel in panels]

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(place["x"] + place["w"] <= GRID for place in places)
    assert not [(one, other) for one, other in combinations(places, 2) if overlap(one, other)]


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
    above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
    return not beside and not above


def test_boards_are_laid_out_so_that_a_change_shows_in_a_diff() -> None:
    for path in BOARDS:
        board = json.loads(path.read_text())
        assert path.read_text() == json.dumps(board, indent=2, sort_keys=True, ensure_ascii=False) + "\n", path.name


def test_grafana_finds_prometheus_and_the_boards() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "rollstream.yml").read_text())["providers"]

    assert (source["type"], source["uid"]) == ("prometheus", "rollstream-prometheus")
    assert provider["type"] == "file"
    assert provider["options"]["path"] == "/etc/rollstream/dashboards"
