"""Conversations: a table of all, and the turns of one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.text import Text

from rollstream.schemas.printable import printable

from ...operations.queue_state import age
from ...sessions.read_sessions import SessionSeen, TurnSeen, TurnState
from .fit import Cell, Column, Lines, table, wrapped
from .headline import many

_COLUMNS = (
    Column(title="session", least=12, said="{}"),
    Column(title="turns", right=True, said="{} turns"),
    Column(title="bytes", rank=2, right=True, said="{} bytes"),
    Column(title="last turn", rank=1, right=True, said="last turn {} ago"),
    Column(title="kept for", rank=2, right=True, said="kept for {} after that"),
)
_TURNS = (
    Column(title="turn", right=True, said="turn {}"),
    Column(title="request", least=12, said="request {}"),
    Column(title="goes on from", rank=1, said="goes on from {}"),
    Column(title="state", said="{}"),
    Column(title="completions", rank=3, right=True, said="{} completions"),
    Column(title="note", rank=3, right=True, said="note of {} bytes"),
    Column(title="submitted", rank=2, right=True, said="submitted {} ago"),
    Column(title="batch", rank=2, least=16, said="batch {}"),
)
_STYLES = {TurnState.ANSWERED: "green", TurnState.UNDER_WAY: "cyan", TurnState.NOT_QUEUED: "yellow"}


def sessions_lines(policy: str, sessions: Sequence[SessionSeen], width: int) -> Lines:
    """What `rollstream sessions` prints."""
    if not sessions:
        return wrapped(f"policy {policy} has no sessions", width)
    return table(_COLUMNS, [_row(one) for one in sessions], width).lines()


def session_lines(policy: str, session: SessionSeen, turns: Sequence[TurnSeen], width: int) -> Lines:
    """What `rollstream sessions ID` prints."""
    states = Counter(one.state for one in turns)
    told: list[Cell] = [
        f"session {session.name} of policy {policy}",
        f"{many(len(turns), 'turn')}: {', '.join(f'{count} {state}' for state, count in states.items())}",
        f"last turn {age(session.silent_s)} ago; Redis keeps it for {_kept(session)} after that",
    ]
    lines = [line for cell in told for line in wrapped(cell, width, indent=2)]
    return [*lines, *table(_TURNS, [_turn(one, session.now) for one in turns], width).lines()]


def session_json(session: SessionSeen, turns: Sequence[TurnSeen] | None = None) -> dict[str, Any]:
    """One session for a script; times in seconds. `turns`: if they were asked for."""
    told: dict[str, Any] = {
        "session": session.name,
        "turns": session.turns,
        "bytes": session.nbytes,
        "opened_s_ago": None if session.opened_at is None else max(0.0, session.now - session.opened_at),
        "last_turn_s_ago": session.silent_s,
        "kept_for_s": session.kept_for,
    }
    if turns is not None:
        told["batches"] = [
            {
                "turn": one.number,
                "request_id": one.turn.request_id,
                "batch_id": one.turn.batch_id,
                "goes_on_from": one.parent,
                "sample": None if one.turn.parent is None else one.turn.parent.sample,
                "completions": one.turn.samples,
                "state": one.state,
                "note_bytes": len(one.turn.note),
                "submitted_s_ago": max(0.0, session.now - one.turn.at),
            }
            for one in turns
        ]
    return told


def _row(session: SessionSeen) -> list[Cell]:
    return [
        session.name,
        "?" if session.turns is None else str(session.turns),
        "?" if session.nbytes is None else str(session.nbytes),
        age(session.silent_s),
        _kept(session),
    ]


def _turn(seen: TurnSeen, now: float) -> list[Cell]:
    parent = seen.turn.parent
    sample = f", sample {parent.sample}" if parent is not None and parent.sample else ""
    return [
        str(seen.number),
        printable(seen.turn.request_id),
        "" if seen.parent is None else f"turn {seen.parent}{sample}",
        Text(seen.state, style=_STYLES.get(seen.state, "red")),
        str(seen.turn.samples),
        str(len(seen.turn.note)),
        age(max(0.0, now - seen.turn.at)),
        seen.turn.batch_id,
    ]


def _kept(session: SessionSeen) -> str:
    return "?" if session.kept_for is None else age(session.kept_for)
