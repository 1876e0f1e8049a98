"""Batches in a table: how far each is, how old, and how long it still takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.text import Text

from ...observe.fleet import Fleet, FleetBatch
from ...operations.queue_state import age
from .charts import about, amount, bar, percent
from .fit import Cell, Column, Laid, Lines, table, wrapped
from .headline import many

UNDER_WAY, DONE, CANCELLED = "under way", "done", "cancelled"
_STYLES = {UNDER_WAY: "cyan", DONE: "green", CANCELLED: "yellow"}
_BAR = 16

_COLUMNS = (
    Column(title="batch", least=16, said="{}"),
    Column(title="state", rank=2, said="{}"),
    Column(title="progress", rank=3, said="{}"),
    Column(title="done", right=True, said="{}"),
    Column(title="groups", rank=1, right=True, said="{} groups"),
    Column(title="age", rank=1, right=True, said="submitted {} ago"),
    Column(title="left", right=True, said="{} left"),
)


def batch_state(batch: FleetBatch) -> str:
    """`under way`, `done` or `cancelled`; a batch that was cancelled has all its answers."""
    return CANCELLED if batch.cancelled else UNDER_WAY if batch.is_under_way else DONE


def batch_table(batches: Sequence[FleetBatch], width: int, most: int | None = None, *, states: bool = True) -> Laid:
    """One line for each batch. Without `states` all are under way."""
    columns = [column for column in _COLUMNS if states or column.title != "state"]
    return table(columns, [_row(batch, states=states) for batch in batches], width, most)


def _row(batch: FleetBatch, *, states: bool) -> list[Cell]:
    state = batch_state(batch)
    return [
        batch.batch_id,
        *([Text(state, style=_STYLES[state])] if states else []),
        bar(batch.done, batch.groups, _BAR, _STYLES[state]),
        percent(batch.done, batch.groups),
        f"{amount(batch.done)}/{amount(batch.groups)}",
        age(batch.submitted_s_ago),
        "" if (left := left_s(batch)) is None else about(left),
    ]


def left_s(batch: FleetBatch) -> float | None:
    """Seconds until it is done at the speed of late, or else at that since its submit; None if over or unknown."""
    if batch_state(batch) != UNDER_WAY:
        return None
    if batch.left_s is not None or not batch.done:
        return batch.left_s
    return (batch.groups - batch.done) * batch.submitted_s_ago / batch.done


def batch_report(fleet: Fleet, batches: Sequence[FleetBatch], width: int, *, every: bool) -> Lines:
    """What `rollstream batches` prints: `batches`, those of `fleet` that were asked for."""
    rest = len([batch for batch in fleet.batches if every or batch_state(batch) == UNDER_WAY]) - len(batches)
    kept = f"policy {fleet.policy} keeps {many(fleet.num_batches, 'batch', 'batches')}"
    if not batches:
        none = "" if every or not fleet.num_batches else ", none of the newest is under way; --all lists them"
        return wrapped(f"{kept}{none}", width)
    lines = batch_table(batches, width, states=every).lines()
    if rest > 0:
        lines += wrapped(Text(f"and {rest} more, see --limit", style="dim"), width)
    return [*lines, *wrapped(Text(kept, style="dim"), width)]


def batch_json(batch: FleetBatch) -> dict[str, Any]:
    """One batch for a script; times in seconds, `left_s` None if it is not known."""
    return {
        "batch_id": batch.batch_id,
        "state": batch_state(batch),
        "done": batch.done,
        "groups": batch.groups,
        "submitted_s_ago": batch.submitted_s_ago,
        "left_s": left_s(batch),
    }
