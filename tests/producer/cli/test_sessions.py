"""`rollstream sessions` shows which conversations there are, and how far each turn of one is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import redis as blocking
from typer.testing import Result

from rollstream import Client, GenerationConfig
from rollstream.producer.cli.views.sessions import session_lines, sessions_lines
from rollstream.producer.sessions.read_sessions import SessionSeen, TurnSeen, TurnState, state_of
from rollstream.schemas import Keys, SessionTurn, Turn
from rollstream.schemas.hashes.sessions import SessionField
from tests.support.command_line import Command

CONFIG = GenerationConfig(max_new_tokens=2)
SEEN = SessionSeen(name="s\x1b[2J", turns=None, nbytes=None, opened_at=None, seen_at=None, kept_for=None, now=100.0)


@pytest.fixture
def run_command(redis_url: str, policy: str) -> Callable[..., Result]:
    return Command(redis_url, policy)


@pytest.fixture
def batches(client: Client, server: Any, policy: str) -> list[str]:
    """The batches of a session with a turn that failed, one under way, and one that was never queued."""
    session = client.session("game-7", retention_s=7200)
    found = [session.submit([1], CONFIG, request_id="a", note=b"four").batch_id]
    client.attach(found[0]).cancel()
    found += [session.submit([2], CONFIG, continue_of=(found[0], 0, 0), request_id=name).batch_id for name in "bc"]
    server.delete(Keys(policy).ledger(found[2]))
    return found


def test_a_list_of_sessions_says_how_many_turns_each_has(
    client: Client, batches: list[str], run_command: Callable[..., Result]
) -> None:
    client.session("other").submit([1], CONFIG)
    lines = run_command("sessions").stdout.splitlines()
    assert lines[0].split() == ["session", "turns", "bytes", "last", "turn", "kept", "for"]
    assert [line.split()[:2] for line in lines[1:]] == [["other", "1"], ["game-7", "3"]]
    assert [
        (one["session"], one["turns"], one["kept_for_s"])
        for one in json.loads(run_command("sessions", "--json").stdout)
    ] == [
        ("other", 1, 86_400),
        ("game-7", 3, 7200),
    ]


def test_a_session_in_full_has_its_turns_and_how_far_each_is(
    batches: list[str], run_command: Callable[..., Result]
) -> None:
    shown = run_command("sessions", "game-7").stdout
    assert "3 turns: 1 failed, 1 under way, 1 not queued" in shown
    told = json.loads(run_command("sessions", "game-7", "--json").stdout)["batches"]
    assert [(one["request_id"], one["batch_id"], one["goes_on_from"], one["state"]) for one in told] == [
        ("a", batches[0], None, "failed"),
        ("b", batches[1], 0, "under way"),
        ("c", batches[2], 0, "not queued"),
    ]
    assert [(one["note_bytes"], one["completions"], one["sample"]) for one in told] == [
        (4, 1, None),
        (0, 1, 0),
        (0, 1, 0),
    ]


@pytest.mark.usefixtures("stub_worker")
def test_a_turn_with_completions_is_answered(client: Client, run_command: Callable[..., Result]) -> None:
    client.session("game-7").submit([1], CONFIG, request_id="a").wait()

    assert "1 turn: 1 answered" in run_command("sessions", "game-7").stdout


def test_a_policy_without_sessions_and_a_session_that_is_not_there_are_said_so(
    run_command: Callable[..., Result],
) -> None:
    assert "has no sessions" in run_command("sessions").stdout
    missing = run_command("sessions", "game-8")
    assert (missing.exit_code, "unknown: no turn was submitted" in missing.stderr) == (1, True)
    assert run_command("sessions", "../x").exit_code == 1


def test_what_anybody_wrote_is_shown_as_unknown_and_harms_no_terminal(
    server: blocking.Redis, policy: str, batches: list[str], run_command: Callable[..., Result]
) -> None:
    keys = Keys(policy)
    server.zadd(keys.sessions(), {b"\x1b[2J": 1e12, b"game-7": 1e11})
    server.hset(keys.session("game-7"), mapping={SessionField.BYTES: b"\xff", SessionField.SEEN_AT: b"nan"})
    shown = run_command("sessions").stdout
    assert "\x1b" not in shown
    assert "?" in shown
    server.hset(keys.session("game-7"), SessionField.turn(1), b"\x80")
    broken = run_command("sessions", "game-7")
    assert (broken.exit_code, "its field 'turn:1'" in broken.stderr) == (1, True)


@pytest.mark.parametrize("width", [20, 40, 200])
def test_tables_fit_any_terminal(width: int) -> None:
    turn = SessionTurn(
        request_id="r" * 200,
        batch_id="b" * 128,
        digest="0" * 64,
        at=0.0,
        samples=4,
        parent=Turn(batch_id="a", group=0, sample=3),
        note=b"n",
    )
    turns = [TurnSeen(number=9, turn=turn, parent=8, state=state) for state in TurnState]
    for lines in (sessions_lines("p", [SEEN], width), session_lines("p", SEEN, turns, width)):
        assert max(line.cell_len for line in lines) <= width
        assert "\x1b" not in "".join(line.plain for line in lines)


def test_the_state_of_a_turn_follows_from_its_ledger() -> None:
    turn = SessionTurn(request_id="r", batch_id="b", digest="0" * 64, at=0.0)
    digest = turn.digest.encode()
    rows: list[tuple[Any, TurnState]] = [
        (None, TurnState.OTHER),
        ([None] * 4, TurnState.NOT_QUEUED),
        ([b"1" * 64, b"1", b"1", b"1"], TurnState.OTHER),
        ([digest, b"1", b"1", b"1"], TurnState.ANSWERED),
        ([digest, b"1", None, b"1"], TurnState.UNDER_WAY),
        ([digest, b"1", b"x", b"1"], TurnState.UNDER_WAY),
        ([digest, b"1", None, None], TurnState.NOT_QUEUED),
    ]
    assert [state_of(turn, row) for row, _ in rows] == [state for _, state in rows]
