"""The command itself: help, wrong usage, what it loads, and what is missing."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from rollstream.producer.cli.app import app
from tests.support.command_line import Command, run_python
from tests.support.worker_process import ROOT


@pytest.mark.parametrize(
    "args",
    [
        ["submit", "-", "--out", "x.jsonl", "--max-new-tokens", "4"],
        ["submit", "-", "--max-new-tokens", "many"],
        ["results"],
        ["results", "b", "--timeout", "1"],
        ["status", "--partitions", "0"],
        ["nonsense"],
    ],
)
def test_wrong_usage_exits_2(command: Command, args: list[str]) -> None:
    assert command(*args).exit_code == 2


def test_a_missing_policy_is_wrong_usage() -> None:
    done = CliRunner().invoke(app, ["status"])
    assert done.exit_code == 2
    assert "--policy" in done.stderr


@pytest.mark.parametrize("args", [["--help"], ["submit", "--help"], ["results", "--help"], ["status", "--help"]])
def test_help_teaches_by_example(args: list[str]) -> None:
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0
    assert "rollstream submit" in done.stdout or "Example: rollstream" in done.stdout


def test_no_help_cuts_a_name_or_a_sentence_at_80_columns() -> None:
    told = []
    waiting: list[tuple[list[str], Any]] = [([], typer.main.get_command(app))]
    while waiting:
        words, command = waiting.pop()
        waiting += [([*words, name], one) for name, one in getattr(command, "commands", {}).items()]
        done = CliRunner(env={"COLUMNS": "80"}).invoke(app, [*words, "--help"])
        assert done.exit_code == 0
        told.append(done.stdout)
        missing = [
            name for option in command.params for name in option.opts if name[0] == "-" and name not in done.stdout
        ]
        wide = [line for line in done.stdout.splitlines() if len(line) > 80]
        assert (missing, wide, "\u2026" in done.stdout) == ([], [], False), words
        assert "..." not in done.stdout.partition("Commands:")[2].partition("\n\n")[0]
    assert len(told) > 30
    assert "ROLLSTREAM_GATEWAY_TOKEN's" in "".join(told)
    assert not [line for one in told for line in one.splitlines() if line.endswith("-")]


def test_the_example_of_submit_is_queued(command: Command, redis_url: str) -> None:
    shown = " ".join(CliRunner().invoke(app, ["submit", "--help"]).stdout.partition("Example: ")[2].split())
    row, _, called = shown.partition(" | rollstream ")
    words = called.removesuffix(" --wait").split()
    done = CliRunner().invoke(app, [*words, "--redis", redis_url], input=row.removeprefix("echo ").strip("'"))
    assert done.exit_code == 0, done.output


def test_ctrl_c_while_it_loads_is_quiet() -> None:
    done = run_python(
        "import os, signal, sys\n"
        "class AtNumpy:\n"
        "    def find_spec(name, path, target=None):\n"
        "        if name == 'numpy': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, AtNumpy)\n"
        "from rollstream.__main__ import main\n"
        "main()"
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("package", ["torch", "safetensors", "tokenizers"])
def test_a_demo_without_its_packages_says_what_to_install(package: str) -> None:
    done = run_python(
        f"import sys; sys.modules['{package}'] = None; sys.argv = ['rollstream', 'demo']\n"
        "from rollstream.__main__ import main\n"
        "main()"
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == (
        f"rollstream: the demo needs the package {package}: pip install 'rollstream[cpu,embedded]'"
    )


def test_help_and_version_load_neither_torch_nor_vllm() -> None:
    code = (
        "import sys; sys.argv = ['rollstream', '--version']\n"
        "from rollstream.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'vllm', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("rollstream ")
