"""The design names every file of the worker, so that whoever looks for a role finds it there."""

from __future__ import annotations

import re

from tests.worker_process import ROOT


def test_the_table_of_files_names_every_file_of_the_worker_and_no_other() -> None:
    table = (ROOT / "docs" / "design.md").read_text().partition("In the worker, upwards:")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {name.removesuffix(".lua") for row in rows for name in re.findall(r"`([^`]+)`", row)}
    files = {path.stem for path in (ROOT / "worker").iterdir() if path.suffix in {".py", ".lua"}} - {"__init__"}

    assert named == files
