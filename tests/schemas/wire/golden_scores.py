"""Messages of scores, by the names of their golden files."""

from __future__ import annotations

import numpy as np

from rollstream.schemas import GroupScores, Message, Origin, ScoreDescription, Tensor
from tests.schemas.wire.messages import SCORE_JOB, int32

SCORES: dict[str, Message] = {
    "ScoreJob.v1": SCORE_JOB,
    "ScoreJob.v1.every-field": SCORE_JOB.model_copy(
        update={
            "top_logprobs": 2,
            "adapter": "math@3",
            "queue_deadline_s": 60.0,
            "run_deadline_s": 9.5,
            "min_policy_version": 16,
            "max_staleness": 2,
            "lineage": (Origin(batch_id="a", entry_id="1-0"),),
            "requires": ("images",),
        }
    ),
    "ScoreDescription.v1": ScoreDescription(
        batch_id="s-1", num_groups=3, num_jobs=1, width=4, offsets=int32(0, 0, 1), submitted_at=1000.5
    ),
    "ScoreDescription.v1.every-field": ScoreDescription(
        batch_id="s-1",
        num_groups=3,
        num_jobs=1,
        width=4,
        offsets=int32(0, 0, 1),
        submitted_at=1000.5,
        top_logprobs=2,
        adapter="math@3",
        lineage=(Origin(batch_id="a", entry_id="1-0"),),
        traceparent=f"00-{'4b' * 16}-{'0a' * 8}-01",
    ),
    "ScoreDescription.v1.with-columns": ScoreDescription(
        batch_id="s-1",
        num_groups=3,
        num_jobs=1,
        width=4,
        offsets=int32(0, 0, 1),
        columns=int32(4, 0, 3),
        tokens_per_group=5,
        submitted_at=1000.5,
    ),
    "GroupScores.v1": GroupScores(
        batch_id="s-1",
        group=2,
        logprobs=Tensor.of(np.array([-0.5, -1], np.float32)),
        policy_version=7,
        worker="gpu-1",
        queued_s=0.25,
        score_s=1.5,
    ),
    "GroupScores.v1.every-field": GroupScores(
        batch_id="s-1",
        group=2,
        logprobs=Tensor.of(np.array([-0.5, -1], np.float32)),
        top_token_ids=Tensor.of(np.array([[8, 1], [3, 9]], np.int32)),
        top_logprobs=Tensor.of(np.array([[-0.5, -3], [-0.75, -1]], np.float32)),
        policy_version=7,
        adapter="math@3",
        worker="gpu-1",
        delivery=2,
        queued_s=0.25,
        score_s=1.5,
        trace=f"00-{'4b' * 16}-{'0a' * 8}-01",
    ),
}
