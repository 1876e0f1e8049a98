"""Rules and configuration as Prometheus' own tool judges them, and what an alert tells a person."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.promql import DEPLOY, RULES, alerts
from tests.support.worker_process import ROOT

PROMETHEUS = DEPLOY / "prometheus"
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool on PATH (Debian: apt install prometheus)"
)


def promtool(*args: str, cwd: Path = PROMETHEUS) -> str:
    done = subprocess.run(["promtool", *args], cwd=cwd, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_promtool
def test_promtool_takes_the_rules() -> None:
    assert "SUCCESS" in promtool("check", "rules", "rules.yml")


@needs_promtool
def test_promtool_takes_the_configuration_with_the_example_targets(tmp_path: Path) -> None:
    shutil.copytree(PROMETHEUS, tmp_path, dirs_exist_ok=True)
    for example in (tmp_path / "targets").glob("*.example"):
        example.rename(example.with_suffix(""))

    told = promtool("check", "config", "prometheus.yml", cwd=tmp_path)

    assert "is valid prometheus config file syntax" in told
    assert "WARNING" not in told


@needs_promtool
def test_each_alert_fires_when_it_should_and_is_silent_when_it_should() -> None:
    assert "SUCCESS" in promtool("test", "rules", "tests.yml")


def test_each_alert_has_a_case_in_which_it_fires_and_is_silent() -> None:
    cases = {case["name"] for case in yaml.safe_load((PROMETHEUS / "tests.yml").read_text())["tests"]}

    assert {rule["alert"] for rule in alerts()} <= cases


def test_each_alert_says_how_bad_it_is_what_it_means_and_what_to_do() -> None:
    for rule in alerts():
        assert rule["labels"]["severity"] in {"critical", "warning"}, rule["alert"]
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}, rule["alert"]
        assert "{{ $labels.policy }}" in rule["annotations"]["summary"], rule["alert"]
        assert rule["annotations"]["description"].count(". ") >= 1, rule["alert"]


def test_each_alert_leads_to_its_part_of_the_operators_book() -> None:
    book = (ROOT / "docs" / "operating.md").read_text()
    headings = re.findall(r"^#+ (.+)$", book, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

    for rule in alerts():
        path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert path == "docs/operating.md"
        assert anchor == rule["alert"].lower()
        assert anchor in anchors, f"docs/operating.md has no heading for {rule['alert']}"


def test_the_operators_book_explains_no_alert_that_does_not_exist() -> None:
    named = set(re.findall(r"\bRollstream[A-Z]\w+", (ROOT / "docs" / "operating.md").read_text()))

    assert named == {rule["alert"] for rule in alerts()}


def test_no_two_rules_have_the_same_name() -> None:
    text = RULES.read_text()
    names = re.findall(r"- (?:alert|record): (\S+)", text)

    assert len(names) == len(set(names)) > 30
