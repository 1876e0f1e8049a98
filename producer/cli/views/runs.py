"""Trainers' runs: a table of all, and one in full."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.text import Text

from rollstream.schemas.printable import printable

from ...operations.queue_state import age
from ...runs.read_runs import BatchLeft, RunSeen
from .fit import Cell, Column, Lines, table, wrapped
from .headline import many

_MOST_CURSOR = 200
"""Characters of a cursor that are shown."""

_COLUMNS = (
    Column(title="run", least=12, said="{}"),
    Column(title="held by", rank=1, least=8, said="held by {}"),
    Column(title="last write", rank=1, right=True, said="last write {} ago"),
    Column(title="submitted", rank=3, right=True, said="{} submitted"),
    Column(title="consumed", rank=2, right=True, said="{} consumed"),
    Column(title="outstanding", right=True, said="{} outstanding"),
    Column(title="cursor", rank=2, right=True, said="cursor of {}"),
)
_LEFT = (
    Column(title="batch", least=16, said="{}"),
    Column(title="answered", right=True, said="{} answered"),
    Column(title="samples", rank=2, right=True, said="{} samples"),
    Column(title="admitted at", rank=3, right=True, said="admitted at version {}"),
    Column(title="submitted", rank=1, right=True, said="submitted {} ago"),
)


def runs_lines(policy: str, runs: Sequence[RunSeen], width: int) -> Lines:
    """What `rollstream runs` prints."""
    if not runs:
        return wrapped(f"policy {policy} has no runs", width)
    return table(_COLUMNS, [_row(run) for run in runs], width).lines()


def run_lines(policy: str, run: RunSeen, left: Sequence[BatchLeft], width: int) -> Lines:
    """What `rollstream runs --run NAME` prints."""
    state = run.state
    told: list[Cell] = [
        f"run {run.name} of policy {policy}",
        _holder(run),
        f"last write {age(run.silent_s)} ago; Redis keeps it for {(state.kept_for or 0) / 86_400:.3g} days after that",
        f"{many(state.submitted, 'batch', 'batches')} submitted, {state.consumed} consumed, {state.dropped} dropped, "
        f"{len(state.outstanding)} outstanding",
        _cursor(run),
        *(f"field {printable(name)} {printable(problem)}" for name, problem in state.unreadable.items()),
    ]
    if state.gate is not None:
        told.append(f"gate at version {state.gate.version}, {state.gate.consumed} samples consumed")
    lines = [line for cell in told for line in wrapped(cell, width, indent=2)]
    if not state.outstanding:
        return lines
    shown = zip(state.outstanding, left, strict=True)
    rows: list[list[Cell]] = [
        [
            printable(intent.batch_id),
            "not queued" if one.groups is None else f"{one.done}/{one.groups}",
            str(intent.samples),
            "" if intent.admitted is None else str(intent.admitted),
            age(max(0.0, run.now - intent.intended_at)),
        ]
        for intent, one in shown
    ]
    return [*lines, *table(_LEFT, rows, width).lines()]


def run_json(run: RunSeen, left: Sequence[BatchLeft] | None = None) -> dict[str, Any]:
    """One run for a script; times in seconds. `left`: its outstanding batches, if they were asked for."""
    state = run.state
    told: dict[str, Any] = {
        "run": run.name,
        "held": state.is_held,
        "holder": state.holder,
        "epoch": state.epoch,
        "taken_s_ago": _ago(run, state.taken_at),
        "closed_s_ago": _ago(run, state.closed_at),
        "last_write_s_ago": run.silent_s,
        "kept_for_s": state.kept_for,
        "submitted": state.submitted,
        "consumed": state.consumed,
        "dropped": state.dropped,
        "outstanding": len(state.outstanding),
        "cursor": run.cursor,
        "cursor_bytes": len(state.cursor or b""),
        "cursor_version": state.cursor_version,
        "unreadable": dict(state.unreadable),
    }
    if left is not None:
        shown = zip(state.outstanding, left, strict=True)
        told["batches"] = [
            {
                "batch_id": intent.batch_id,
                "number": intent.number,
                "samples": intent.samples,
                "admitted": intent.admitted,
                "done": one.done,
                "groups": one.groups,
            }
            for intent, one in shown
        ]
    return told


def _row(run: RunSeen) -> list[Cell]:
    state = run.state
    return [
        run.name,
        Text(printable(state.holder), style="green") if state.is_held else Text("nobody", style="dim"),
        age(run.silent_s),
        str(state.submitted),
        str(state.consumed),
        str(len(state.outstanding)),
        "none" if state.cursor is None else f"{len(state.cursor)} bytes",
    ]


def _holder(run: RunSeen) -> str:
    state = run.state
    who, opened = printable(state.holder) or "somebody", f"opened {many(state.epoch or 0, 'time')} so far"
    if not state.is_held:
        return f"closed {age(_ago(run, state.closed_at) or 0)} ago by {who}; {opened}"
    return f"held by {who} for {age(_ago(run, state.taken_at) or 0)}; {opened}"


def _cursor(run: RunSeen) -> str:
    state = run.state
    if state.cursor is None:
        return "no cursor"
    text = printable(run.cursor)
    shown = text if len(text) <= _MOST_CURSOR else f"{text[:_MOST_CURSOR]}..."
    moved = age(_ago(run, state.cursor_at) or 0)
    return f"cursor of {len(state.cursor)} bytes, version {state.cursor_version}, moved {moved} ago: {shown}"


def _ago(run: RunSeen, at: float | None) -> float | None:
    return None if at is None else max(0.0, run.now - at)
