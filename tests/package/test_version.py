"""The version stands in one place, and both commands say it, whatever was installed."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import pytest

import rollstream
from tests.support.worker_process import ROOT

COMMANDS = {"rollstream": "rollstream", "rollstream-worker": "rollstream.worker"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_the_version_of_the_checkout(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", COMMANDS[name], "--version"],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip

    assert done.stdout == f"{name} {rollstream.__version__}\n"


def test_the_changelog_begins_with_what_is_unreleased_and_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    sections = re.findall(r"^## ([\w.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert "version" not in project
    assert sections[:2] == ["Unreleased", rollstream.__version__]


def test_files_of_a_release_are_named_by_this_version_where_they_are_installed() -> None:
    texts = [(ROOT / name).read_text() for name in ("README.md", "docs/releasing.md")]
    named = {version for text in texts for version in re.findall(r"rollstream-(\d+\.\d+\.\d+)", text)}

    assert named == {rollstream.__version__}
