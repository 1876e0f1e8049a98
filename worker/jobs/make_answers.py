"""A group's answer as the message that crosses Redis: its completions, padded, or why there are none."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas import Envelope, GroupError, GroupResult, Job, Tensor
from rollstream.schemas.wire.envelope import QueuedJob

from ..delivery.lease import Lease
from ..errors import DataError
from ..requests import Completion
from .padding import pad_completions

MAX_SHOWN_PROMPT = 2**20
"""Most tokens of the prompt that an error answer repeats: a prompt may be as large as a message."""


def sampled_by(version: int, completion: Completion) -> Completion:
    """`completion` of a policy that is an adapter: a request keeps its adapter until it ends, also after a swap."""
    length = len(completion.token_ids)
    return replace(completion, version_spans=((version, length),) if length else (), spans_exact=True)


def group_result(
    lease: Lease, job: Job, group: int, prompt: NDArray[np.int32], completions: list[Completion], started: float
) -> GroupResult:
    """The answer with `completions` of `prompt`, int32 (prompt_len,); sampling began at `started` (unix seconds)."""
    texts = [c.text for c in completions if c.text is not None]
    padded = pad_completions(completions)
    return GroupResult(
        batch_id=job.batch_id,
        group=group,
        prompt=Tensor.of(prompt),
        token_ids=padded.token_ids,
        lengths=padded.lengths,
        response_mask=padded.response_mask,
        logprobs=padded.logprobs,
        logprobs_flavour=None if padded.logprobs is None else job.config.logprobs,
        scores=padded.scores,
        finish_reasons=tuple(c.finish_reason for c in completions),
        stop_reasons=tuple(c.stop_reason for c in completions),
        texts=tuple(texts) if len(texts) == len(completions) else None,
        version_spans=tuple(c.version_spans for c in completions),
        spans_exact=all(c.spans_exact for c in completions),
        adapter=job.adapter,
        worker=lease.consumer,
        delivery=lease.delivery,
        queued_s=max(0.0, started - job.submitted_at),
        generate_s=time.time() - started,
        forced_mask=padded.forced_mask,
        top_token_ids=padded.top_token_ids,
        top_logprobs=padded.top_logprobs,
        label_logprobs=padded.label_logprobs,
        support_ids=padded.support_ids,
        support_lengths=padded.support_lengths,
    )


def group_error(
    lease: Lease, envelope: Envelope, job: QueuedJob | DataError, group: int, error: DataError
) -> GroupError:
    """The answer with `error`, and with the prompt if the job could be read; a row to score is not sent back."""
    prompt = None
    if isinstance(job, Job):
        prompt = Tensor.of(job.prompts[group - job.first_group][:MAX_SHOWN_PROMPT])
    return GroupError(
        batch_id=envelope.batch_id,
        group=group,
        code=error.code.value,
        field=error.field,
        message=error.message,
        worker=lease.consumer,
        prompt=prompt,
    )
