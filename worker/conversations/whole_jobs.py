"""A job whose groups go on from earlier turns, as the job that has their whole prompts: all that others see of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas import ErrorCode, Job, Tensor
from rollstream.schemas.wire.images import MAX_IMAGES, Images
from rollstream.schemas.wire.sizes.limits import MAX_BYTES
from rollstream.schemas.wire.sizes.result_size import MAX_RESULT_BYTES, result_bytes
from rollstream.schemas.wire.turns import Turn

from ..errors import DataError
from .earlier_turns import Earlier, EarlierTurns

READ_AT_ONCE = 16
"""Results of earlier turns that one job reads at a time: each may be as large as a message."""
_ID_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeJob:
    """A job, and what became of the turns that its groups go on from."""

    job: Job
    """With whole prompts; a group whose turn is missing has only its new ids."""
    earlier: Mapping[int, Earlier] = field(default_factory=dict)
    """By group."""
    problems: Mapping[int, DataError] = field(default_factory=dict)
    """By group: why it cannot be sampled."""


class WholeJobs:
    """Puts earlier turns in front of the new ids of a job's groups."""

    def __init__(self, *, turns: EarlierTurns) -> None:
        self._turns = turns

    async def of(self, job: Job) -> WholeJob:
        """The job with whole prompts. One without turns costs nothing."""
        if not any(job.continue_of):
            return WholeJob(job=job)
        found: dict[int, Earlier | DataError] = {}
        wanted = [(group, turn) for group, turn in zip(job.groups, job.continue_of, strict=True) if turn is not None]
        for first in range(0, len(wanted), READ_AT_ONCE):
            some = wanted[first : first + READ_AT_ONCE]
            read = await asyncio.gather(*(self._find(turn) for _, turn in some))
            found |= {group: one for (group, _), one in zip(some, read, strict=True)}
        return whole_of(job, found)

    async def _find(self, turn: Turn) -> Earlier | DataError:
        try:
            return await self._turns.find(turn)
        except DataError as error:
            return error


def whole_of(job: Job, found: Mapping[int, Earlier | DataError]) -> WholeJob:
    """Put what was found in front of the groups' ids, as far as a job may be large."""
    prompts, earlier, problems = list[NDArray[Any]](job.prompts), dict[int, Earlier](), dict[int, DataError]()
    images = list[Images](job.images or [()] * len(prompts))
    nbytes = job.prompt_ids.shape[0] * _ID_BYTES
    for group, one in found.items():
        row = group - job.first_group
        problem = one if isinstance(one, DataError) else _problem(job, one, prompts[row].size, len(images[row]), nbytes)
        if problem is not None or isinstance(one, DataError):
            problems[group] = problem or one  # type: ignore[assignment]
            continue
        nbytes += one.ids.size * _ID_BYTES
        prompts[row] = np.concatenate([one.submitted, prompts[row]])
        images[row] = (*one.images, *images[row])
        earlier[group] = one
    return WholeJob(job=_with_prompts(job, prompts, images), earlier=earlier, problems=problems)


def _problem(job: Job, earlier: Earlier, new: int, images: int, nbytes: int) -> DataError | None:
    if not new:
        problem = f"no ids follow {earlier.turn}: give at least one, such as those that ask for the next reply"
        return DataError(ErrorCode.EMPTY_PROMPT, "prompt", problem)
    if nbytes + earlier.ids.size * _ID_BYTES > MAX_BYTES:
        problem = f"the job's prompts have more than {MAX_BYTES} bytes with their turns: use fewer prompts_per_job"
        return DataError(ErrorCode.TOO_LONG, "continue_of", problem)
    if images + len(earlier.images) > MAX_IMAGES:
        problem = f"{images} images beside the {len(earlier.images)} of {earlier.turn}: at most {MAX_IMAGES} a prompt"
        return DataError(ErrorCode.IMAGE_REFUSED, "images", problem)
    whole = earlier.ids.size + new
    if result_bytes(job.config, whole) > MAX_RESULT_BYTES:
        problem = f"a prompt of {whole} ids with the turns before it leaves no room in a result: ask for less a prompt"
        return DataError(ErrorCode.TOO_LONG, "prompt", problem)
    return None


def _with_prompts(job: Job, prompts: Sequence[NDArray[Any]], images: Sequence[Images]) -> Job:
    changed = {
        "prompt_ids": Tensor.of(np.concatenate(prompts).astype(np.int32, copy=False)),
        "images": tuple(images) if any(images) else (),
        "prompt_lengths": Tensor.of(np.array([len(one) for one in prompts], np.int32)),
    }
    return Job.model_validate({**dict(job), **changed})  # a copy would keep the old prompts, which are cached
