"""Make the jobs of rows to score and their content digest, without Redis. No row is ever shortened."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rollstream.schemas import Envelope, ScoreDescription, ScoreJob, Tensor, encode
from rollstream.schemas.keys import check_adapter, check_name
from rollstream.schemas.wire.fields import MAX_GROUPS_PER_JOB
from rollstream.schemas.wire.requires import IMAGES
from rollstream.schemas.wire.sizes.limits import MAX_BYTES
from rollstream.schemas.wire.sizes.result_size import MAX_RESULT_BYTES, score_bytes

from ..batches.deadlines import NO_DEADLINES, Deadlines
from ..batches.submission import AnySubmission
from ..batches.worker_limits import check_top_logprobs
from ..errors import ArgumentError, PromptsError
from ..policies.version_bounds import ANY_VERSION, VersionBounds
from .rows import ScoreRows

_JOB_TOKENS = 2**17
"""A job has no more tokens than this, unless one row has: one GPU scores so many in some seconds."""
_MAX_ROW_TOKENS = MAX_BYTES // 4 - 2**16
"""Tokens of a row that a message can carry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSubmission(AnySubmission[ScoreDescription]):
    """The submission of rows to score."""


def split_rows(
    rows: ScoreRows,
    *,
    top_logprobs: int,
    batch_id: str,
    adapter: str | None,
    rows_per_job: int,
    submitted_at: float,
    deadlines: Deadlines = NO_DEADLINES,
    bounds: VersionBounds = ANY_VERSION,
) -> ScoreSubmission:
    """Slice rows into jobs of at most `rows_per_job` rows; long rows make smaller ones.

    Raises `ArgumentError` for `top_logprobs` and `rows_per_job`, `PromptsError` for a row that no message carries, or
    whose scores none would, and `schemas.NameRefusedError` for a bad `batch_id` or `adapter`.
    """
    _check(rows, top_logprobs, rows_per_job)
    check_name("batch_id", batch_id)
    if adapter is not None:
        check_adapter(adapter)
    slices = list(_slices(rows.lengths.tolist(), rows_per_job))
    description = ScoreDescription(
        batch_id=batch_id,
        num_groups=len(rows.ids),
        num_jobs=len(slices),
        width=rows.width,
        offsets=Tensor.of(rows.offsets),
        columns=Tensor.of(rows.columns),
        tokens_per_group=-(-int(rows.lengths.sum(dtype=np.int64)) // len(rows.ids)),
        top_logprobs=top_logprobs,
        adapter=adapter,
        submitted_at=submitted_at,
    )
    jobs = [_job(description, rows, number, part, deadlines, bounds) for number, part in enumerate(slices)]
    digest = _digest(rows, description, rows_per_job, bounds)
    return ScoreSubmission(batch=description, digest=digest, jobs=jobs, images=rows.images)


def _check(rows: ScoreRows, top_logprobs: int, rows_per_job: int) -> None:
    check_top_logprobs(top_logprobs)
    if type(rows_per_job) is not int or not 1 <= rows_per_job <= MAX_GROUPS_PER_JOB:
        raise ArgumentError("rows_per_job", rows_per_job, f"give an integer from 1 to {MAX_GROUPS_PER_JOB}")
    if (longest := int(rows.lengths.max())) > _MAX_ROW_TOKENS:
        row = int(rows.lengths.argmax())
        raise PromptsError("input_ids", f"{longest} tokens, and one message carries {_MAX_ROW_TOKENS}", row)
    most, row = int(rows.columns.max()), int(rows.columns.argmax())
    if (nbytes := score_bytes(most, top_logprobs)) > MAX_RESULT_BYTES:
        problem = (
            f"the scores of {most} tokens with {top_logprobs} candidates each are {nbytes} bytes, and one message "
            f"carries {MAX_RESULT_BYTES}: ask for fewer top_logprobs, or begin at a later column"
        )
        raise PromptsError("input_ids", problem, row)


def _slices(lengths: list[int], rows_per_job: int) -> Iterator[range]:
    """The rows of each job, in order."""
    start = tokens = 0
    for row, length in enumerate(lengths):
        if row > start and (row - start == rows_per_job or tokens + length > _JOB_TOKENS):
            yield range(start, row)
            start, tokens = row, 0
        tokens += length
    yield range(start, len(lengths))


def _job(
    description: ScoreDescription,
    rows: ScoreRows,
    number: int,
    part: range,
    deadlines: Deadlines,
    bounds: VersionBounds,
) -> tuple[Envelope, bytes]:
    where = slice(part.start, part.stop)
    job = ScoreJob(
        batch_id=description.batch_id,
        job=number,
        first_group=part.start,
        num_groups=description.num_groups,
        token_ids=Tensor.of(np.concatenate(rows.ids[where])),
        row_lengths=Tensor.of(rows.lengths[where]),
        firsts=Tensor.of(rows.firsts[where]),
        top_logprobs=description.top_logprobs,
        adapter=description.adapter,
        submitted_at=description.submitted_at,
        queue_deadline_s=deadlines.queue_deadline_s,
        run_deadline_s=deadlines.run_deadline_s,
        min_policy_version=bounds.min_policy_version,
        max_staleness=bounds.max_staleness,
        **_images(rows, part),
    )
    return score_envelope(job, description), encode(job)


def _images(rows: ScoreRows, part: range) -> dict[str, Any]:
    """What a job says of the images of its rows; nothing if they have none."""
    images = rows.images.of(part)
    if not images:
        return {}
    spans = rows.spans[part.start : part.stop]
    return {"requires": (IMAGES,), "images": images, "image_spans": spans if any(spans) else ()}


def score_envelope(job: ScoreJob, description: ScoreDescription) -> Envelope:
    """The job's entry, in which each row counts as the mean of its batch, as the description says it of a row."""
    tokens = len(job.groups) * description.tokens_per_group
    return replace(Envelope.of_job(job, description.traceparent), tokens=tokens)


def _digest(rows: ScoreRows, description: ScoreDescription, rows_per_job: int, bounds: VersionBounds) -> str:
    scored_by = [description.adapter, bounds.min_policy_version, bounds.max_staleness]
    head: list[Any] = ["scores", len(rows.ids), rows.width, description.top_logprobs, scored_by, rows_per_job]
    if rows.images.of_prompts:  # so the digest of rows without images stays what it was
        head.append({"images": rows.images.digests, "expanded": [bool(spans) for spans in rows.spans]})
    digest = hashlib.sha256(json.dumps(head).encode() + b"\0")
    for array in (rows.lengths, rows.firsts, rows.offsets, *rows.ids):
        digest.update(array.astype("<i4").tobytes())
    return digest.hexdigest()
