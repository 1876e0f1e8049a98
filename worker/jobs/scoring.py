"""Scores a row."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass

from rollstream.schemas import GroupScores, ScoreJob, Tensor

from ..delivery.lease import Lease
from ..engine import Engine
from ..requests import Adapter, ScoreRequest, Scores
from . import row_checks
from .admitted_job import AdmittedJob
from .score_gate import ScoreGate


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorePlan:
    """A `Plan` for a job that scores rows."""

    job: ScoreJob
    adapter: Adapter | None
    version: int | None
    engine: Engine
    gate: ScoreGate

    async def begin(self, admitted: AdmittedJob, groups: Collection[int]) -> None:
        """A row has nothing that was kept."""

    async def answer(self, admitted: AdmittedJob, group: int) -> GroupScores:
        """See `Plan.answer`."""
        job, number, lease = self.job, group - self.job.first_group, admitted.lease
        row = job.rows[number]
        first = int(job.firsts.numpy()[number])
        row_checks.check_row(row, self.engine.info)
        row_checks.check_scores_fit(len(row) - first, job.top_logprobs)
        request = ScoreRequest(
            request_id=f"{job.batch_id}/{group}/{lease.delivery}",
            token_ids=row.tolist(),
            first=first,
            top_logprobs=job.top_logprobs,
            adapter=self.adapter,
        )
        async with self.gate.passed(len(row)):
            started = time.time()
            scores = await self.engine.score(request)
        return self._message(lease, group, scores, started)

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
