"""A group's answer as the message that crosses Redis: its completions, padded, or why there are none."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from rollstream.schemas import Envelope, GroupError, GroupResult, Job, RoutedExperts, Tensor
from rollstream.schemas.wire.envelope import QueuedJob

from ..conversations.earlier_turns import Earlier
from ..delivery.lease import Lease
from ..errors import DataError
from ..requests import Completion
from .padding import pad_completions
from .prompts.image_prompts import Prompt

MAX_SHOWN_PROMPT = 2**20
"""Most tokens of the prompt that an error answer repeats: a prompt may be as large as a message."""


def sampled_by(version: int, completion: Completion) -> Completion:
    """`completion` of a policy that is an adapter: a request keeps its adapter until it ends, also after a swap."""
    length = len(completion.token_ids)
    return replace(completion, version_spans=((version, length),) if length else (), spans_exact=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """How the samples of a group ended."""

    completions: list[Completion]
    """Those that are its answer, in the order of their samples; of beams, the best first."""
    samples: tuple[int, ...] = ()
    """The number of each among the prompt's samples; empty if all n are there, in order."""
    resumed_at: tuple[int, ...] = ()
    """How many tokens of each earlier deliveries sampled; empty if none."""
    cut_lengths: tuple[int, ...] | None = None
    """For each sample that was not needed any more: so many tokens it would have had at least, see `GroupResult`; None
    where none could be cut."""
    routing: RoutedExperts | None = None
    """Where the experts lie that their tokens went to, once that is in Redis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupShare:
    """What a job has sampled of a group of which other jobs have the rest."""

    job: Job
    group: int
    prompt: Prompt
    sampled: Sampled
    started: float
    """Unix seconds when sampling began."""
    earlier: Earlier | None = None
    """What the group goes on from."""

    @property
    def of(self) -> int:
        """How many samples the group has in all."""
        return self.job.config.num_return_sequences


def group_result(
    lease: Lease,
    job: Job,
    group: int,
    prompt: Prompt,
    sampled: Sampled,
    started: float,
    earlier: Earlier | None = None,
) -> GroupResult:
    """The answer with what was sampled after `prompt`, from `started` (unix seconds) on."""
    completions = sampled.completions
    texts = [c.text for c in completions if c.text is not None]
    padded = pad_completions(completions)
    return GroupResult(
        batch_id=job.batch_id,
        group=group,
        prompt=Tensor.of(prompt.ids),
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
        sample_index=_numbers(sampled.samples or None),
        cut_lengths=_numbers(sampled.cut_lengths),
        resumed_at=_numbers(sampled.resumed_at or None),
        cached_tokens=completions[0].cached_tokens if len(completions) == 1 else None,
        continued=None if earlier is None else earlier.turn,
        images=prompt.refs,
        image_spans=prompt.spans,
        earlier_completions=None if earlier is None else Tensor.of(earlier.completions),
        routing=sampled.routing,
    )


def _numbers(values: tuple[int, ...] | None) -> Tensor | None:
    return None if values is None else Tensor.of(np.array(values, np.int32))


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
