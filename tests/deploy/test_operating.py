"""The operator's book covers each failure, its links and commands exist, and its figures were measured."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main

from rollstream.producer.cli.app import app
from rollstream.worker.config import WorkerSettings
from tests.support.worker_process import ROOT

BOOK = (ROOT / "docs" / "operating.md").read_text()


def first_cells(document: str, heading: str) -> list[str]:
    part = document.partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    rows = [line for line in part.splitlines() if line.startswith("| ")]
    return [row.split(" | ")[0].removeprefix("| ") for row in rows[2:]]


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_book_has_a_remedy_for_each_failure_and_for_no_other() -> None:
    failures = first_cells((ROOT / "docs" / "delivery.md").read_text(), "## Failures")
    remedies = first_cells(BOOK, "## What to do in each failure")

    assert len(failures) > 30
    unmatched = [failure for failure in failures if not any(failure.startswith(remedy) for remedy in remedies)]
    assert unmatched == [], "docs/operating.md says nothing of these"
    assert [remedy for remedy in remedies if not any(failure.startswith(remedy) for failure in failures)] == []


def test_every_link_of_the_book_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", BOOK):
        path, _, anchor = target.partition("#")
        document = ROOT / "docs" / (path or "operating.md")
        assert document.is_file(), target
        assert not anchor or anchor in anchors(document), target


def test_every_command_of_the_book_exists() -> None:
    named = set(re.findall(r"rollstream ([a-z]+)(?= |`|$)", BOOK, re.MULTILINE))
    commands: Any = typer.main.get_group(app)
    known = set(commands.commands)

    assert len(named) > 10
    assert named - known == set()


def test_every_flag_of_a_worker_that_the_book_names_exists() -> None:
    flags = {f"--{name.replace('_', '-')}" for name in WorkerSettings.model_fields}
    lines = "\n".join(line for line in BOOK.splitlines() if "rollstream-worker" in line)

    assert set(re.findall(r"--[a-z-]+[a-z]", lines)) <= flags


@pytest.mark.parametrize("figure", ["19,330", "49,823", "10.2", "5.2", "within 5.5 s"])
def test_the_figures_of_the_capacity_part_are_those_that_were_measured(figure: str) -> None:
    capacity = BOOK.partition("\n## Capacity\n")[2].partition("\n## ")[0]

    assert figure.removeprefix("within ") in capacity
    assert figure in (ROOT / "docs" / "performance.md").read_text()


def test_the_readme_and_the_failures_lead_to_the_book() -> None:
    assert "](docs/operating.md)" in (ROOT / "README.md").read_text()
    assert "](operating.md" in (ROOT / "docs" / "delivery.md").read_text()
