"""Tables and JSON for a replay: what it would queue, what it leaves out, and what the comparison found."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from rollstream.schemas import Batch, ScoreDescription
from rollstream.schemas.entry_id import EntryId
from rollstream.schemas.printable import printable

from ...replay.differences import Comparison
from ...replay.plan import Replay
from ...replay.replay import Prepared
from ...replay.selection import Skipped
from .fit import Cell, Column, Lines, table

_LATEST_MS = 10**14
"""Milliseconds. A later entry id is no time; a dead letter may carry any id."""
_MOST_SKIPPED = 20


_COLUMNS = (
    Column(title="original batch", least=16, said="{}"),
    Column(title="jobs", right=True, said="{} jobs"),
    Column(title="groups", right=True, said="{} groups"),
    Column(title="prompt tokens", rank=3, right=True, said="{} prompt tokens"),
    Column(title="completions", rank=2, right=True, said="{} completions"),
    Column(title="queued", rank=1, said="queued {}"),
    Column(title="new batch", said="new batch {}"),
)


def plan_lines(prepared: Prepared, width: int) -> Lines:
    """One row for each new batch, without what is skipped."""
    return table(_COLUMNS, map(_cells, prepared.replays), width).lines()


def _cells(replay: Replay) -> list[Cell]:
    row = replay_json(replay)
    jobs = str(row["jobs"]) if row["original_jobs"] in {None, row["jobs"]} else f"{row['jobs']}/{row['original_jobs']}"
    numbers = [f"{row[name]:,}" for name in ("groups", "prompt_tokens", "completions")]
    return [replay.original_id, jobs, *numbers, _local(row["queued_at"]), replay.batch.batch_id]


def plan_json(prepared: Prepared) -> dict[str, Any]:
    """The new batches and what is skipped, as one object."""
    skipped = [
        {"stream": skip.place.stream, "entry_id": skip.place.entry_id, "reason": skip.reason}
        for skip in prepared.skipped
    ]
    return {"batches": [replay_json(replay) for replay in prepared.replays], "skipped": skipped}


def replay_json(replay: Replay) -> dict[str, Any]:
    """One new batch; of rows to score `prompt_tokens` are all of theirs, and there are no completions.

    `queued_at`: Unix seconds at which the original's first selected job was queued.
    """
    batch, jobs = replay.batch, [placed.selected for placed in replay.jobs]
    queued = EntryId.of(jobs[0].origin.entry_id)
    return {
        "batch_id": batch.batch_id,
        "replay_of": replay.original_id,
        "jobs": batch.num_jobs,
        "original_jobs": replay.original.num_jobs if replay.original else None,
        "groups": batch.num_groups,
        "prompt_tokens": sum(job.prompt_tokens for job in jobs),
        "completions": batch.num_groups * batch.config.completions_per_prompt if isinstance(batch, Batch) else 0,
        "queued_at": queued.unix_s if queued.milliseconds < _LATEST_MS else None,
    }


def _local(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    return datetime.fromtimestamp(seconds).isoformat(" ", timespec="seconds")


def skipped_lines(skipped: list[Skipped]) -> Iterator[str]:
    """One line each for the first 20, then one line that counts the rest."""
    for skip in skipped[:_MOST_SKIPPED]:
        yield printable(f"skipped {skip.place.stream} {skip.place.entry_id}: {skip.reason}")
    if len(skipped) > _MOST_SKIPPED:
        yield f"skipped {len(skipped) - _MOST_SKIPPED} more"


def comparison_line(replay: Replay, comparison: Comparison) -> str:
    """One line: how much was compared, and what differs."""
    compared = f"{comparison.completions} completions, {comparison.tokens} tokens compared"
    if isinstance(replay.batch, ScoreDescription):
        compared = f"{comparison.tokens} scored tokens compared"
    amount, found = f"{comparison.groups} groups: {compared}", []
    if comparison.first is not None:
        found.append(f"{comparison.differing_groups} groups differ, the first: {comparison.first}")
    if comparison.first_resumed is not None:
        why = "were gone on with by another delivery, which is another draw, and are comparable only up to there"
        found.append(f"{comparison.resumed} completions {why}, the first: {comparison.first_resumed}")
    if comparison.first_resumed_apart is not None:
        why = "of these differ earlier, as after more than one such delivery"
        found.append(f"{comparison.resumed_apart} {why}, the first: {comparison.first_resumed_apart}")
    if comparison.first_cut_once is not None:
        why = "only one of the runs has kept: which end first is a race, and the other is not comparable"
        found.append(f"{comparison.cut_once} samples or groups {why}, the first: {comparison.first_cut_once}")
    if comparison.first_other is not None:
        why = "were answered by other policy versions than the stored ones and are not comparable"
        found.append(f"{comparison.other_versions} groups {why}, the first: {comparison.first_other}")
    outcome = [*(found or ["identical" if comparison.identical else "they differ"])]
    outcome += [] if comparison.apart is None else [str(comparison.apart)]
    return printable(f"{replay.batch.batch_id} against {replay.original_id}: {amount}: {'; '.join(outcome)}")


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as one object."""
    return {"identical": comparison.identical, **dataclasses.asdict(comparison)}
