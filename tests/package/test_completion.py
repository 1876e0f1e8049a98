"""Both commands complete in each shell that has a script: real shells read it, and somebody presses Tab."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from rollstream.worker.config import WorkerSettings
from rollstream.worker.startup.completion import values

KILL_LINE = "\x15"
READY = "SCRIPT-WAS-READ"
TERMINALS = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}
BEFORE = {"bash": "", "zsh": "autoload -Uz compinit; compinit -u -D; "}


def environment() -> dict[str, str]:
    """A terminal's, in which our commands are found."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "TERM": "dumb", "INPUTRC": "/dev/null"}


class Terminal:
    """A shell at a terminal of its own."""

    def __init__(self, *, shell: str) -> None:
        self._ours, theirs = pty.openpty()
        self._process = subprocess.Popen(
            TERMINALS[shell], stdin=theirs, stdout=theirs, stderr=theirs, env=environment(), start_new_session=True
        )
        os.close(theirs)

    def type(self, text: str, *, until: str) -> None:
        """Type it and wait until the terminal shows `until`."""
        os.write(self._ours, text.encode())
        shown, last = b"", time.monotonic() + 60
        while until.encode() not in shown:
            readable, _, _ = select.select([self._ours], [], [], max(0.0, last - time.monotonic()))
            assert readable, f"no {until!r} after {text!r}, but {shown.decode(errors='replace')[-2000:]!r}"
            shown += os.read(self._ours, 2**16)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._ours)


@pytest.fixture(params=["bash", "zsh"])
def terminal(request: pytest.FixtureRequest) -> Iterator[Terminal]:
    shell: str = request.param
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    opened = Terminal(shell=shell)
    try:
        script = f"{BEFORE[shell]}source <(rollstream completion {shell}); echo SCRIPT-WAS''-READ\n"
        opened.type(script, until=READY)
        yield opened
    finally:
        opened.close()


def test_tab_completes_commands_options_and_values_in_a_terminal(terminal: Terminal) -> None:
    terminal.type("rollstream publish-a\t", until="publish-adapter ")
    terminal.type(f"{KILL_LINE}rollstream-worker --engine st\t", until="--engine stub ")


def test_fish_offers_options_with_their_help_and_values() -> None:
    if not shutil.which("fish"):
        pytest.skip("fish is not installed")
    asked = 'complete -C "rollstream submit --max-n"; complete -C "rollstream-worker --dtype fl"'

    done = subprocess.run(
        ["fish", "--no-config", "-c", f"rollstream completion fish | source; {asked}"],
        env=environment(), capture_output=True, text=True, check=True, timeout=100,
    )  # fmt: skip

    first, *others = done.stdout.splitlines()
    assert first == "--max-new-tokens\tTokens a completion may have. Required somewhere."
    assert sorted(others) == ["float16", "float32"]


def offered_to_bash(module: str, variable: str, words: str) -> set[str]:
    """What bash is told, where a variable is set that any command refuses."""
    asked = {variable: "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "1", "ROLLSTREAM_MAX_NUM_SEQ": "7"}
    done = subprocess.run(
        [sys.executable, "-m", module],
        env={**environment(), **asked}, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return set(done.stdout.split())


def test_every_flag_of_a_worker_is_offered_whatever_its_environment() -> None:
    flags = {f"--{name.replace('_', '-')}" for name in WorkerSettings.model_fields}
    offered = offered_to_bash("rollstream.worker", "_ROLLSTREAM_WORKER_COMPLETE", "rollstream-worker --")
    assert {*flags, "--version", "--no-lora"} <= offered


def test_commands_are_offered_whatever_the_environment() -> None:
    assert {"submit", "dead"} <= offered_to_bash("rollstream", "_ROLLSTREAM_COMPLETE", "rollstream ")


@pytest.mark.parametrize(
    ("name", "annotation", "offered"),
    [
        ("swap", Literal["keep", "wait"], ["keep", "wait"]),
        ("max_lora_rank", Literal[8, 16] | None, ["8", "16"]),
        ("metrics_port", int | Literal["auto"], ["auto"]),
        ("model", Path | None, []),
        ("engine_args", dict[str, int], []),
        ("engine", str, ["stub", "vllm"]),
    ],
)
def test_the_values_of_a_flag_are_offered_where_they_are_few(name: str, annotation: object, offered: list[str]) -> None:
    assert values(name, annotation) == offered
