"""The reference of both commands, from what their `--help` prints."""

from __future__ import annotations

import os
import subprocess
import sys

_PLAIN = {"TYPER_USE_RICH": "0", "COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}
_ALL = """
import sys
from typer.main import get_command
from typer.testing import CliRunner
from rollstream.producer.cli.app import app

def walk(words, command):
    yield words
    for name, below in getattr(command, "commands", {}).items():
        yield from walk([*words, name], below)

for words in walk([], get_command(app)):
    done = CliRunner().invoke(app, [*words, "--help"], prog_name="rollstream")
    assert done.exit_code == 0, done.output
    print("\\0".join(["rollstream", *words]), done.output, sep="\\1", end="\\2")
"""
"""All commands in one process: each would load for a third of a second."""
ROLLSTREAM, WORKER = "commands/rollstream.md", "commands/rollstream-worker.md"
"""The pages."""
_HEAD = "# {name}\n\n{about}\n"
_ABOUT = {
    "rollstream": "What a trainer's shell and an operator type: each command as `--help` shows it. `rollstream COMMAND "
    "--help` says the same in a terminal.",
    "rollstream-worker": "The process beside an engine. Each flag is an environment variable too, with `ROLLSTREAM_` "
    "before its name: `--max-num-seqs` is `ROLLSTREAM_MAX_NUM_SEQS`. This is what `rollstream-worker --help` prints.",
}


def command_pages() -> dict[str, str]:
    """The pages by their paths. Runs both commands."""
    helps = [part.partition("\1") for part in _run(sys.executable, "-c", _ALL).split("\2") if part]
    parts = [_HEAD.format(name="rollstream", about=_ABOUT["rollstream"])]
    parts += [_command(words.replace("\0", " "), text) for words, _, text in helps]
    worker = _run(sys.executable, "-m", "rollstream.worker", "--help")
    about = _HEAD.format(name="rollstream-worker", about=_ABOUT["rollstream-worker"])
    return {
        ROLLSTREAM: "\n".join(parts),
        WORKER: f"{about}\n{_fenced(worker)}",
    }


def _command(words: str, text: str) -> str:
    """A part of the page; the command alone is its beginning."""
    return _fenced(text) if words == "rollstream" else f"## {words}\n\n{_fenced(text)}"


def _fenced(text: str) -> str:
    return f"````text\n{text.strip()}\n````\n"


def _run(*command: str) -> str:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("ROLLSTREAM_")}
    done = subprocess.run(command, env={**ours, **_PLAIN}, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:3])[:80]}: exit code {done.returncode}\n{done.stderr}")
    return done.stdout
