"""Scores a row."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas import GroupScores, ScoreJob, Tensor

from ..delivery.lease import Lease
from ..engine import Engine
from ..requests import Adapter, Expanded, ScoreRequest, Scores
from . import row_checks
from .admitted_job import AdmittedJob
from .prompts.gate import Gate
from .prompts.image_prompts import ImagePrompts, check_offered


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorePlan:
    """A `Plan` for a job that scores rows."""

    job: ScoreJob
    adapter: Adapter | None
    version: int | None
    engine: Engine
    prompts: ImagePrompts
    gate: Gate

    async def begin(self, admitted: AdmittedJob, groups: Collection[int]) -> None:
        """A row has nothing that was kept."""

    async def answer(self, admitted: AdmittedJob, group: int) -> GroupScores:
        """See `Plan.answer`."""
        number = group - self.job.first_group
        refs = self.job.images[number] if self.job.images else ()
        check_offered(refs, self.engine.info)
        async with self.prompts.room(refs, 1):
            return await self._answer(admitted, group, number)

    async def _answer(self, admitted: AdmittedJob, group: int, number: int) -> GroupScores:
        job, lease = self.job, admitted.lease
        row, first, images = await self._row(number)
        row_checks.check_scores_fit(len(row) - first, job.top_logprobs)
        request = ScoreRequest(
            request_id=f"{job.batch_id}/{group}/{lease.delivery}",
            token_ids=row.tolist(),
            first=first,
            top_logprobs=job.top_logprobs,
            adapter=self.adapter,
            images=images,
        )
        async with self.gate.passed(len(row)):
            started = time.time()
            scores = await self.engine.score(request)
        return self._message(lease, group, scores, started)

    async def _row(self, number: int) -> tuple[NDArray[np.int32], int, Expanded | None]:
        """The row with room for its images, where its scores begin in it, and what the engine made of the images.

        What is scored was sampled, so an id that stands for an image is none there.
        """
        job, info = self.job, self.engine.info
        row, first = job.rows[number], int(job.firsts.numpy()[number])
        row_checks.check_row(row, info)
        refs = job.images[number] if job.images else ()
        spans = job.image_spans[number] if job.image_spans else ()
        if refs and spans:
            found = await self.prompts.again(row, refs, spans)
            return row, first, found.images
        found = await self.prompts.prompt(row[:first], refs)
        if found.images is not None:
            row, first = np.concatenate([found.ids, row[first:]]), len(found.ids)
            row_checks.check_row(row, info)
        return row, first, found.images

    def _message(self, lease: Lease, group: int, scores: Scores, started: float) -> GroupScores:
        job, wants_top = self.job, self.job.top_logprobs > 0
        return GroupScores(
            batch_id=job.batch_id,
            group=group,
            logprobs=Tensor.of(scores.logprobs),
            top_token_ids=Tensor.of(scores.top_token_ids) if wants_top else None,
            top_logprobs=Tensor.of(scores.top_logprobs) if wants_top else None,
            policy_version=scores.version if self.version is None else self.version,
            adapter=job.adapter,
            worker=lease.consumer,
            delivery=lease.delivery,
            queued_s=max(0.0, started - job.submitted_at),
            score_s=time.time() - started,
        )
