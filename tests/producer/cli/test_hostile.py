"""Whatever a producer, a job or a worker's report fills a field with is shown as text, bounded, by every command."""

from __future__ import annotations

import json
from typing import Any

import pytest
from rich.cells import cell_len

from rollstream import Client
from tests.support.command_line import Command
from tests.support.faults import Queue
from tests.support.watching.crowded import crowd

HOSTILE = (
    "\x1b[2J\x1b[31m[red]\x1b]8;;http://evil\x1b\\link\x1b]8;;\x07</td><script>alert(1)</script>"
    "\u202egnp.exe\u2066\u200f\x00\x07\x08\x9b1m\r\n\x85\u2028\ufeff" + "A" * 100_000
)
MOST = 40_000
"""Characters of a whole report, in which some thirty fields are hostile."""

SHOWN = [
    ("status", ("worker", "state", "engine", "model", "policy_error", "of-model")),
    ("top --once", ("worker", "state", "model", "policy_error", "code", "short-error", "location")),
    ("batches --all", ()),
    ("dead ls", ("field-batch", "letter-error", "letter-worker")),
    ("dead show", ("letter-error", "letter-worker", "letter-policy", "traceback", "field-name", "field-value", "stop")),
    ("doctor", ("consumer", "model", "policy_error", "lease")),
    ("versions", ("location", "policy_error")),
    ("replay --dead --dry-run", ()),
    ("replay --batch half --dry-run", ()),
    ("lease", ("worker",)),
    ("results half", ("message", "field", "completion")),
]  # fmt: skip
"""Commands, with the fields whose texts they show."""


def _hostile(field: str) -> str:
    return f"mark-{field} {HOSTILE}"


@pytest.fixture
def crowded(client: Client, queue: Queue, redis_url: str) -> str:
    """The name of a dead letter in a policy whose every field is hostile."""
    crowd(client, queue, redis_url, _hostile)
    letters: Any = queue.redis.xrange(queue.keys.dead(0))
    return str(letters[0][0].decode())


@pytest.mark.keys_by_hand
@pytest.mark.parametrize(("line", "fields"), SHOWN, ids=[line.replace(" ", "-") for line, _ in SHOWN])
def test_every_field_is_shown_as_text_and_bounded(
    crowded: str, command: Command, line: str, fields: tuple[str, ...]
) -> None:
    words = [*line.split(), *([crowded] if line == "dead show" else [])]
    whole = _told(command, words)
    for field in fields:
        assert f"mark-{field}" in whole, field
    escape = "\\u001b[2J" if line.startswith("results") else "\\x1b[2J\\x1b[31m[red]"
    assert not fields or escape in whole
    if not line.startswith("results"):  # which gives all that it was sent, as JSON
        assert len(whole) < MOST
        assert all(cell_len(row) <= 1000 for row in whole.splitlines())
        command.env["COLUMNS"] = "60"
        assert all(cell_len(row) <= 60 for row in _told(command, words).splitlines())


def _told(command: Command, words: list[str]) -> str:
    done = command(*words)
    assert done.exit_code in {0, 1, 3, 5}, done.output
    _check_text(done.stdout + done.stderr)
    assert len(done.stderr) < MOST
    return done.stdout


@pytest.mark.keys_by_hand
def test_json_is_json_in_plain_ascii(crowded: str, command: Command) -> None:
    for line in (
        "status", "batches --all", "dead ls", f"dead show {crowded}", "doctor", "versions", "lease",
        "replay --batch half --dry-run",
    ):  # fmt: skip
        done = command(*line.split(), "--json")
        assert json.loads(done.stdout), line
        assert done.stdout.isascii()
        _check_text(done.output)


@pytest.mark.parametrize(
    "line", ["results", "cancel", "dead show", "dead ls", "drain", "replay --batch", "replay --dead"]
)
def test_what_was_typed_is_shown_as_text_and_bounded(command: Command, line: str) -> None:
    done = command(*line.split(), HOSTILE)
    assert done.exit_code in {0, 1, 2}
    _check_text(done.output)
    assert len(done.output) < MOST


def _check_text(output: str) -> None:
    assert "Traceback (most" not in output.replace("traceback:", "")
    odd = {character for character in output if not (character.isprintable() or character == "\n")}
    assert not odd
