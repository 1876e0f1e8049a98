"""Queue rows to score: what was given is read, the options are checked, and jobs are made of both."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeAlias

from rollstream.schemas import Keys

from ..batches.deadlines import Deadlines
from ..batches.prompts import Rows
from ..batches.submit_and_wait import queue
from ..batches.worker_limits import check_candidates, check_top_logprobs
from ..calls.arguments import number
from ..errors import ArgumentError
from ..images.given import read_images
from ..policies.version_bounds import VersionBounds
from ..redis_io.connection import Connection
from ..rollouts.rollout_batch import RolloutBatch
from .handle import ScoreHandle
from .options import ScoreOptions
from .rows import ExpandedRows, ScoreRows
from .submission import ScoreSubmission, split_rows

Scored: TypeAlias = "Rows | RolloutBatch | ExpandedRows"
"""What is scored: rows of ids, rollouts, or trajectories that were put together by `stack`."""
Making = Callable[[str], ScoreSubmission]
"""Makes the submission under a batch's id; it raises what `split_rows` raises."""
Before = Callable[[ScoreSubmission], Awaitable[None]]
"""What has to be done before the first job is queued."""


async def submit_scores(
    connection: Connection,
    keys: Keys,
    make: Making,
    options: ScoreOptions,
    batch_id: str | None,
    before: Before | None = None,
) -> ScoreHandle:
    """Queue what `make` makes. Raises what `AsyncClient.submit_scores` raises, and what `before` raises."""
    await check_candidates(connection, keys, number(options["top_logprobs"]))
    queued, again = await queue(connection, keys, batch_id, make, before)
    return ScoreHandle(connection=connection, keys=keys, batch=queued.batch, again=again)


async def making(given: Scored, attention_mask: Rows | None, options: ScoreOptions) -> Making:
    """Read rows and options, which are complete. Raises `PromptsError`, `DeadlineError` and the like."""
    make = partial(
        split_rows,
        await _rows(given, attention_mask, options),
        top_logprobs=check_top_logprobs(number(options["top_logprobs"])),
        adapter=options["adapter"],
        rows_per_job=number(options["rows_per_job"]),
        submitted_at=time.time(),
        deadlines=Deadlines.of(options["queue_deadline_s"], options["run_deadline_s"]),
        bounds=VersionBounds.of(options["min_policy_version"], options["max_staleness"]),
    )
    return lambda batch_id: make(batch_id=batch_id)


def num_rows(given: Scored) -> int:
    """How many rows are scored."""
    return given.num_rows if isinstance(given, RolloutBatch) else len(given)


async def _rows(given: Scored, attention_mask: Rows | None, options: ScoreOptions) -> ScoreRows:
    first, images = options["first"], options["images"]
    _check_stacked(given)
    if isinstance(given, ExpandedRows):
        if attention_mask is not None:
            raise ArgumentError("attention_mask", attention_mask, "leave it out: trajectories have one themselves")
        return ScoreRows.of_expanded(given, await read_images(images, len(given), options["image_quota_bytes"]), first)
    if not isinstance(given, RolloutBatch):
        rows = ScoreRows.of(given, attention_mask, first)
        return rows.with_images(await read_images(images, len(rows.ids), options["image_quota_bytes"]), first)
    for name, value in (("attention_mask", attention_mask), ("first", first)):
        if value is not None:
            raise ArgumentError(name, value, "leave it out: rollouts say themselves where each response is")
    of_rows = isinstance(images, Sequence) and len(images) == given.num_rows
    entries = given.num_rows if of_rows else len(given)
    return ScoreRows.of_rollouts(given, await read_images(images, entries, options["image_quota_bytes"]))


def _check_stacked(given: object) -> None:
    """Raises `ArgumentError` for a `Trajectory` or a list of them, which have no columns in common."""
    one = given[0] if isinstance(given, Sequence) and len(given) else given
    if isinstance(one, ExpandedRows) and one.input_ids.ndim != 2:
        raise ArgumentError("input_ids", given, "put trajectories together: stack(trajectories)")
