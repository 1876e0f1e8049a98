"""Make a batch's jobs and its content digest, without Redis. The same content has the same digest in every process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas import Batch, Envelope, GenerationConfig, Job, Tensor, encode
from rollstream.schemas.keys import check_adapter, check_name
from rollstream.schemas.wire.requires import CONTINUE_OF, FIRST_GROUPS, IMAGES
from rollstream.schemas.wire.scores import Description
from rollstream.schemas.wire.shares import shares_of
from rollstream.schemas.wire.sizes.result_size import check_result_fits

from ..errors import ArgumentError
from ..images.given import NO_IMAGES, GivenImages
from ..order.slicing import Slicing, shared_out
from ..policies.version_bounds import ANY_VERSION, VersionBounds
from ..turns.conversation import NO_CONVERSATION, Conversation
from .deadlines import NO_DEADLINES, Deadlines
from .prompts import Prompts

_CHUNK_JOBS, _CHUNK_BYTES = 64, 8 * 2**20
"""Limits of one script call, which is sent, and repeated, as a whole, while Redis does nothing else."""


D = TypeVar("D", bound=Description)
Chunk = list[tuple[Envelope, bytes]]
"""The jobs, with their payloads, that one script call queues."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnySubmission(Generic[D]):
    """All that one submit sends. It is made before anything is sent, so that a bad batch leaves nothing behind."""

    batch: D
    digest: str
    """sha256 of all that decides what is answered: rows, config, adapter, slicing, version bounds; the same at any
    time."""
    jobs: list[tuple[Envelope, bytes]]
    run: str = ""
    """The trainer's run that it is submitted through; empty: through none."""
    keep_s: int = 0
    """How long its results stay until the run has consumed them."""
    images: GivenImages = NO_IMAGES
    """What has to be in Redis before the first job is."""

    def chunks(self) -> Iterator[Chunk]:
        """The jobs in order, in slices of bounded count and bytes."""
        chunk: Chunk = []
        held = 0
        for envelope, payload in self.jobs:
            if chunk and (len(chunk) == _CHUNK_JOBS or held + len(payload) > _CHUNK_BYTES):
                yield chunk
                chunk, held = [], 0
            chunk.append((envelope, payload))
            held += len(payload)
        yield chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission(AnySubmission[Batch]):
    """The submission of a batch of prompts."""


def split(  # noqa: PLR0913 - what a batch is, each with its name
    prompts: Prompts,
    config: GenerationConfig,
    *,
    batch_id: str,
    adapter: str | None,
    slicing: Slicing,
    submitted_at: float,
    first_groups: int | None = None,
    deadlines: Deadlines = NO_DEADLINES,
    bounds: VersionBounds = ANY_VERSION,
    conversation: Conversation = NO_CONVERSATION,
    images: GivenImages = NO_IMAGES,
) -> Submission:
    """Make the jobs of a batch. They are numbered by their prompts and samples, in whatever order they are queued.

    Raises `ArgumentError` for `first_groups`, `schemas.NameRefusedError` for a bad `batch_id` or `adapter`,
    `PromptsError` for a prompt that goes on from this very batch, `schemas.ConfigError` for a group whose result may be
    larger than a message, and `schemas.WireError` for a job larger than a reader takes.
    """
    check_name("batch_id", batch_id)
    if adapter is not None:
        check_adapter(adapter)
    conversation.check_begins_elsewhere(batch_id)
    check_result_fits(config, max(map(len, prompts.ids)))
    slices = list(slicing.slices(len(prompts.ids)))
    batch = Batch(
        batch_id=batch_id,
        num_groups=len(prompts.ids),
        num_jobs=len(slices) * shares_of(config, slicing.samples_per_job),
        prompt_width=prompts.width,
        config=config,
        adapter=adapter,
        submitted_at=submitted_at,
        first_groups=_wanted(first_groups, len(prompts.ids)),
        samples_per_job=slicing.samples_per_job,
    )
    wholes = [(number, _whole(batch, prompts, rows, deadlines, bounds, expected)) for number, rows, expected in slices]
    full = [(number, _with_images(images, _turn_of(conversation, whole))) for number, whole in wholes]
    jobs = [job for number, whole in full for job in shared_out(whole, number, slicing.samples_per_job)]
    return Submission(
        batch=batch,
        digest=_digest(prompts, batch, slicing.prompts_per_job, bounds, [conversation.content, images.content]),
        jobs=[(Envelope.of_job(job, batch.traceparent), encode(job)) for job in jobs],
        images=images,
    )


def _wanted(first_groups: int | None, groups: int) -> int | None:
    """None if all groups are wanted: then the batch is the same as one without `first_groups`."""
    if first_groups is None:
        return None
    if type(first_groups) is not int or not 1 <= first_groups <= groups:
        rule = f"give an integer from 1 to {groups}, the number of prompts, or None for all of them"
        raise ArgumentError("first_groups", first_groups, rule)
    return first_groups if first_groups < groups else None


def _whole(
    batch: Batch,
    prompts: Prompts,
    rows: range,
    deadlines: Deadlines,
    bounds: VersionBounds,
    expected: NDArray[np.int32] | None,
) -> Job:
    """The job that has all samples of these prompts; its number is given later."""
    ids = prompts.ids[rows.start : rows.stop]
    return Job(
        batch_id=batch.batch_id,
        job=0,
        first_group=rows.start,
        num_groups=batch.num_groups,
        prompt_ids=Tensor.of(np.concatenate(ids)),
        prompt_lengths=Tensor.of(_lengths(ids)),
        config=batch.config,
        adapter=batch.adapter,
        submitted_at=batch.submitted_at,
        queue_deadline_s=deadlines.queue_deadline_s,
        run_deadline_s=deadlines.run_deadline_s,
        keep_partials=deadlines.keep_partials,
        min_policy_version=bounds.min_policy_version,
        max_staleness=bounds.max_staleness,
        requires=(*batch.config.needs, *(() if batch.first_groups is None else (FIRST_GROUPS,))),
        first_groups=batch.first_groups,
        expected_tokens=None if expected is None else Tensor.of(expected),
    )


def _turn_of(conversation: Conversation, whole: Job) -> Job:
    """The job with what it says of its conversation."""
    continue_of = conversation.of_rows(whole.groups)
    return whole.model_copy(
        update={
            "continue_of": continue_of,
            "requires": (*whole.requires, *((CONTINUE_OF,) if continue_of else ())),
            "session": conversation.session,
            "session_wait_s": conversation.session_wait_s,
        }
    )


def _with_images(images: GivenImages, whole: Job) -> Job:
    """The job with the images of its prompts; the same if they have none."""
    found = images.of(whole.groups)
    return whole.model_copy(update={"images": found, "requires": (*whole.requires, IMAGES)}) if found else whole


def _digest(
    prompts: Prompts, batch: Batch, prompts_per_job: int, bounds: VersionBounds, more: Iterable[Mapping[str, Any]]
) -> str:
    config = batch.config.model_dump(
        mode="json", exclude_defaults=True
    )  # so a future option does not change this digest
    config["logit_bias"] = sorted(batch.config.logit_bias.items())  # the order of a mapping is not content
    sampled_by = [batch.adapter, bounds.min_policy_version, bounds.max_staleness]
    head: list[Any] = [len(prompts.ids), prompts.width, config, sampled_by, prompts_per_job]
    if batch.first_groups is not None:  # so the digest of a batch without it stays what it was
        head.append({"first_groups": batch.first_groups})
    if batch.samples_per_job is not None:
        head.append({"samples_per_job": batch.samples_per_job})
    head += [one for one in more if one]
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    digest.update(b"\0" + _lengths(prompts.ids).astype("<i4").tobytes())
    for ids in prompts.ids:
        digest.update(ids.astype("<i4").tobytes())
    return digest.hexdigest()


def _lengths(ids: list[Any]) -> Any:
    return np.array([len(row) for row in ids], np.int32)
