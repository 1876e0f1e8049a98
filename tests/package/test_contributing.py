"""What a newcomer is told to open is there."""

from __future__ import annotations

import re

import pytest

from tests.support.worker_process import ROOT


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "SECURITY.md"])
def test_every_file_that_is_named_exists(document: str) -> None:
    text = (ROOT / document).read_text()
    named = {word for quoted in re.findall(r"`([^`]+)`", text) for word in quoted.split() if "/" in word}
    named |= {target for target in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in target}
    paths = {word for word in named if not word.startswith((".venv/", "build/", "rediss://"))}

    assert len(paths) > 5
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []


def test_the_first_page_leads_to_them() -> None:
    readme = (ROOT / "README.md").read_text()

    assert "](CONTRIBUTING.md)" in readme
    assert "](SECURITY.md)" in readme
