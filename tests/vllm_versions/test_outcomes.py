"""What a run is said to have come to."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.worker_process import ROOT
from tests.vllm_versions.__main__ import CORE, EXIT_USAGE, main
from tests.vllm_versions.outcomes import Outcomes, Run, read_record, read_run, table

RUN = Run(
    vllm="0.31.0", torch="2.13.0+cpu", transformers="5.17.0", python="3.11.7", commit="abc1234", date="2026-11-30",
    tests="all", seconds=600, exit_code=1,
    outcomes=Outcomes(passed=("a", "b"), failed={"c": "call: wrong"}, skipped={"d": "no GPU"}, unfinished=("e",)),
)  # fmt: skip


def event(name: str, outcome: str, why: str = "") -> str:
    return json.dumps({"name": name, "outcome": outcome, "why": why})


def test_a_test_that_failed_to_clean_up_has_failed() -> None:
    found = read_record([event("a", "started"), event("a", "passed"), event("a", "failed", "teardown: left a key")])

    assert found == Outcomes(failed={"a": "teardown: left a key"})


def test_a_test_that_ended_the_run_is_unfinished() -> None:
    found = read_record([event("a", "started"), event("a", "passed"), event("b", "started")])

    assert found == Outcomes(passed=("a",), unfinished=("b",))


def test_a_run_survives_its_file() -> None:
    assert read_run(RUN.as_json()) == RUN


def test_the_table_has_the_oldest_vllm_first_and_names_what_did_not_pass() -> None:
    older = dataclasses.replace(RUN, vllm="0.9.0", outcomes=Outcomes(passed=("a",)))

    lines = table([RUN, older]).splitlines()

    assert [line[:9] for line in lines[2:4]] == ["| 0.9.0 |", "| 0.31.0 "]
    assert "| 2 | 1 + 1 unfinished | 1 | 600 |" in lines[3]
    assert lines[-3:] == ["- failed: `c`: call: wrong", "- unfinished: `e`", "- skipped: `d`: no GPU"]


@pytest.mark.parametrize(
    ("changed", "clean"),
    [
        ({"outcomes": Outcomes(passed=("a",))}, True),
        ({"outcomes": Outcomes(passed=("a",), unfinished=("b",))}, False),
        ({"outcomes": Outcomes(passed=("a",)), "exit_code": 5}, False),
    ],
)
def test_a_run_is_clean_if_all_of_it_passed(changed: dict[str, object], clean: bool) -> None:
    run = dataclasses.replace(RUN, **{"exit_code": 0, **changed})  # type: ignore[arg-type] # fields of several types

    assert run.is_clean is clean


def test_pytest_records_each_outcome_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n\n"
        "def test_passes(): pass\n"
        "def test_fails(): assert 1 == 2\n"
        "def test_skips(): pytest.skip('no GPU')\n"
    )
    record = tmp_path / "record.lines"

    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", str(tmp_path), "-p",
         "tests.vllm_versions.recording", "--record", str(record), str(tmp_path)],
        cwd=ROOT, check=False, capture_output=True,
    )  # fmt: skip

    assert read_record(record.read_text().splitlines()) == Outcomes(
        passed=("test_it.py::test_passes",),
        failed={"test_it.py::test_fails": "call: assert 1 == 2"},
        skipped={"test_it.py::test_skips": "no GPU"},
    )


def test_what_is_no_release_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["latest", "--folder", str(tmp_path / "new")]) == EXIT_USAGE

    assert "'latest' is no released version" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", CORE)
def test_every_file_and_room_of_the_core_exists(name: str) -> None:
    assert (ROOT / "tests" / "real_engine" / name).exists()
