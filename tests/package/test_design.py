"""The design names every room of each package, so that a reader who looks for a role finds it there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.worker_process import ROOT


def rooms(package: Path) -> set[str]:
    """Modules at its top, and folders, which end with a slash."""
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    return modules | {f"{path.parent.relative_to(package)}/" for path in package.glob("*/**/__init__.py")}


@pytest.mark.parametrize("package", ["schemas", "transport", "worker", "producer"])
def test_the_table_of_a_package_names_its_rooms_and_no_others(package: str) -> None:
    layers = (ROOT / "docs" / "design.md").read_text().partition("## 2. Layers")[2].partition("\n## ")[0]
    table = layers.partition(f"\n| {package} | |\n")[2].partition("\n\n")[0]
    named = {name for row in table.splitlines() for name in re.findall(r"`([^`]+)`", row.split("|")[1])}

    assert named == rooms(ROOT / package)


def test_the_way_of_a_job_names_modules_that_exist() -> None:
    way = (ROOT / "docs" / "design.md").read_text().partition("\nThe way of a job: ")[2].partition("\n\n")[0]
    named = set(re.findall(r"`([a-z_/]+)`", way))
    rooms = (ROOT, ROOT / "worker", ROOT / "producer" / "batches")

    assert len(named) > 10
    assert (
        sorted(
            name
            for name in named
            if not any((room / name).with_suffix(".py").is_file() or (room / name).is_dir() for room in rooms)
        )
        == []
    )
