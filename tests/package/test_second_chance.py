"""`.ci/run` gives tests that failed one more run, and says at the end which needed it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.worker_process import ROOT

FAILED = ".pytest_cache/v/cache/lastfailed"
MAKE = f"""
test:
\t@echo run with $(ARGS); echo run >> runs
\t@if [ "$$(wc -l < runs)" = 1 ]; then mkdir -p $(dir {FAILED}); {{first}}; fi; {{second}}
"""
NOTED = f"""echo '{{"tests/test_b.py::test_b[x y]": true, "tests/test_a.py::test_a": true}}' > {FAILED}; exit 1"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A tree with this script and a `make test` that the test gives it."""
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    return tmp_path


def ci(checkout: Path, *, first: str, second: str) -> tuple[int, str]:
    (checkout / "Makefile").write_text(MAKE.replace("{first}", first).replace("{second}", second))
    done = subprocess.run([checkout / ".ci" / "run"], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout


def test_what_passes_at_once_is_run_once(checkout: Path) -> None:
    status, said = ci(checkout, first="exit 0", second="exit 1")

    assert (status, said.count("run with")) == (0, 1)
    assert "SECOND CHANCE" not in said


def test_tests_that_pass_the_second_time_are_named_at_the_end(checkout: Path) -> None:
    status, said = ci(checkout, first=NOTED, second="exit 0")

    assert status == 0
    assert "run with --last-failed" in said
    assert said.rstrip().splitlines()[-3:] == [
        "!!!! SECOND CHANCE: these tests passed only the second time: find out why",
        "!!!!     tests/test_a.py::test_a",
        "!!!!     tests/test_b.py::test_b[x y]",
    ]


def test_tests_that_fail_twice_fail_and_are_named_at_the_end(checkout: Path) -> None:
    status, said = ci(checkout, first=NOTED, second="exit 1")

    assert status != 0
    assert said.rstrip().endswith("!!!!     tests/test_a.py::test_a\n!!!!     tests/test_b.py::test_b[x y]")


def test_what_is_no_test_fails_at_once_whatever_failed_before(checkout: Path) -> None:
    (checkout / FAILED).parent.mkdir(parents=True)
    (checkout / FAILED).write_text('{"tests/test_old.py::test_old": true}')

    status, said = ci(checkout, first="exit 1", second="exit 0")

    assert (status, said.count("run with")) == (1, 1)
