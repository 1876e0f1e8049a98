"""What the table says of a cell, and the exit codes of `make families`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.support.report import command_line
from tests.families.__main__ import main
from tests.families.outcomes import Cell, Row, as_json, table

RIGHT = Cell("right", 1.3e-5, dtype="float32")
REFUSED = Cell("refused", said="no LoRA here", dtype="float32")


def test_each_reason_stands_once_below_the_table() -> None:
    rows = {
        "Llama": {"scores": RIGHT, "LoRA": Cell("right", 0.02, dtype="bfloat16")},
        "Mixtral": {"scores": Cell("wrong", said="Mixtral: 7 nats off"), "LoRA": REFUSED},
        "Qwen3-MoE": {"scores": RIGHT, "LoRA": REFUSED},
    }

    assert table(rows, ("scores", "LoRA")).splitlines() == [
        "| family | scores | LoRA |",
        "| --- | --- | --- |",
        "| Llama | 1e-05 | 2e-02 (bfloat16) |",
        "| Mixtral | **wrong** (1) | refused (2) |",
        "| Qwen3-MoE | 1e-05 | refused (2) |",
        "",
        "1. Mixtral: 7 nats off",
        "2. no LoRA here",
    ]


@pytest.mark.parametrize(("ended", "is_fine"), [("right", True), ("refused", True), ("wrong", False), ("died", False)])
def test_only_what_is_right_or_refused_by_name_is_fine(ended: str, is_fine: bool) -> None:
    assert Cell(ended).is_fine is is_fine  # type: ignore[arg-type] # one of the four


def test_reports_of_several_runs_are_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told: list[dict[str, Row]] = [
        {"Qwen2": {"scores": Cell("wrong", said="old")}, "Llama": {"scores": RIGHT, "LoRA": REFUSED}},
        {"Qwen2": {"scores": RIGHT, "LoRA": RIGHT}},
    ]
    files = [tmp_path / f"{number}.json" for number in range(2)]
    for file, rows in zip(files, told, strict=True):
        file.write_text(json.dumps({"families": as_json(rows)}, allow_nan=False))

    assert main(["--cell", "scores", "--cell", "LoRA", "--show", *map(str, files)]) == 0

    assert capsys.readouterr().out.splitlines()[3:6] == [
        "| Llama | 1e-05 | refused (1) |",
        "| Qwen2 | 1e-05 | 1e-05 |",
        "",
    ]
    assert main(["--show", str(files[0])]) == 1, "a cell of it is wrong"


@pytest.mark.parametrize(("flag", "value"), [("--family", "Lama"), ("--cell", "score")])
def test_an_unknown_name_is_a_usage_error_that_lists_the_names(
    capsys: pytest.CaptureFixture[str], flag: str, value: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([flag, value])

    assert ended.value.code == 2
    assert f"invalid choice: '{value}'" in capsys.readouterr().err


def test_the_help_parts_names_that_have_commas(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])

    assert "; Llama, tied; " in " ".join(capsys.readouterr().out.split())


def test_the_command_can_be_typed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["families", "--family", "Gemma 3", "--cell", "LoRA"])

    assert command_line().endswith(" --family 'Gemma 3' --cell LoRA")
