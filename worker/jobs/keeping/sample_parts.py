"""What a sample has so far as the message that crosses Redis, and back. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from rollstream.schemas import Job, Part, Tensor

from ...delivery.lease import Lease
from ...requests import Completion
from ..prompts.image_prompts import NOTHING_SEEN, Seen
from ..samples import SoFar

log = structlog.get_logger()


def part_of(so_far: SoFar, lease: Lease, job: Job, group: int, of: str, seen: Seen = NOTHING_SEEN) -> Part:
    """The part that says it; `of`: the digest of the group's content, see `schemas.wire.parts.content_of`.

    `seen`: see `Prompt.seen`.

    Raises `ValueError` for numbers that no part carries, such as log-probs that are NaN.
    """
    completion = so_far.completion
    return Part(
        batch_id=job.batch_id,
        group=group,
        sample=so_far.sample,
        of=of,
        token_ids=Tensor.of(completion.token_ids),
        logprobs=_tensor(completion.logprobs),
        logprobs_flavour=None if completion.logprobs is None else job.config.logprobs,
        version_spans=completion.version_spans,
        spans_exact=completion.spans_exact,
        adapter=job.adapter,
        finish_reason=completion.finish_reason if so_far.ended else None,
        stop_reason=completion.stop_reason if so_far.ended else None,
        text=completion.text if so_far.ended else None,
        worker=lease.consumer,
        delivery=lease.delivery,
        resumed_at=so_far.resumed_at,
        top_token_ids=_tensor(completion.top_token_ids),
        top_logprobs=_tensor(completion.top_logprobs),
        label_logprobs=_tensor(completion.label_logprobs),
        support_ids=_tensor(completion.support_ids),
        support_lengths=_tensor(completion.support_lengths),
        forced=_tensor(completion.forced),
        routing=completion.routing,
        expanded=seen.ids,
        processor=seen.processor,
    )


def following(kept: Mapping[int, Part], seen: Seen) -> dict[int, SoFar]:
    """What the samples have that follow this prompt, see `Prompt.seen`; others begin again.

    Only here it is known what this worker's processor makes of the images.
    """
    others = [sample for sample, part in sorted(kept.items()) if seen_by(part) != seen]
    if others:
        log.warning("samples follow images that were processed otherwise, they begin again", samples=others[:8])
    return {sample: so_far_of(part) for sample, part in kept.items() if seen_by(part) == seen}


def seen_by(part: Part) -> Seen:
    """What the model saw of the prompt that the part follows."""
    return Seen(part.expanded, part.processor)


def so_far_of(part: Part) -> SoFar:
    """What the sample of a part has: all of it was sampled by earlier deliveries than the one that reads it."""
    completion = Completion(
        token_ids=part.token_ids.numpy(),
        logprobs=_array(part.logprobs),
        finish_reason=part.finish_reason or "abort",
        stop_reason=part.stop_reason,
        version_spans=part.version_spans,
        text=part.text,
        spans_exact=part.spans_exact,
        top_token_ids=_array(part.top_token_ids),
        top_logprobs=_array(part.top_logprobs),
        label_logprobs=_array(part.label_logprobs),
        support_ids=_array(part.support_ids),
        support_lengths=_array(part.support_lengths),
        forced=_array(part.forced),
        routing=part.routing,
    )
    return SoFar(sample=part.sample, completion=completion, ended=part.is_finished, resumed_at=len(part))


def _tensor(array: NDArray[np.generic] | None) -> Tensor | None:
    return None if array is None else Tensor.of(array)


def _array(tensor: Tensor | None) -> NDArray[Any] | None:
    return None if tensor is None else tensor.numpy()
