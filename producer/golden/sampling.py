"""Golden jobs as batches of their own, which go with the call that submitted them."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas import GenerationConfig, Keys
from rollstream.schemas.golden.comparison import Now
from rollstream.schemas.wire.answers import GroupError, GroupResult

from ..batches.deadlines import Deadlines
from ..batches.handle import BatchHandle
from ..batches.prompts import Prompts
from ..batches.read_answers import Answer
from ..batches.submission import split
from ..batches.submit_jobs import enqueue
from ..errors import ProducerError, ResultTimeoutError
from ..order.slicing import Slicing
from ..progress import progress_bar
from ..redis_io.connection import Connection

_PROMPTS_PER_JOB = 4
Wanted = tuple[list[NDArray[np.int32]], GenerationConfig]
"""The prompts of one batch and how they are sampled."""


async def sample(
    connection: Connection, keys: Keys, wanted: Sequence[Wanted], timeout: float | None
) -> list[list[Answer]]:
    """Submit the batches and wait for all, under one progress bar: for each batch the answers in order.

    Batches that are not waited for to the end are cancelled. Raises `ResultTimeoutError`, `RedisUnavailableError`.
    """
    handles: list[BatchHandle] = []
    total = sum(len(prompts) for prompts, _ in wanted)
    try:
        async with asyncio.timeout(timeout):
            for prompts, config in wanted:
                handles.append(await _submit(connection, keys, prompts, config))
            with progress_bar("golden", total) as show:
                return await _answers(handles, show)
    except BaseException as error:
        for handle in handles:
            with suppress(ProducerError):
                await handle.cancel()
        if isinstance(error, TimeoutError):
            name = handles[-1].batch_id if handles else "golden"
            raise ResultTimeoutError(name, 0, total, timeout or 0, "the golden jobs were cancelled") from None
        raise


async def _submit(
    connection: Connection, keys: Keys, prompts: list[NDArray[np.int32]], config: GenerationConfig
) -> BatchHandle:
    submission = split(
        Prompts.of(prompts),
        config,
        batch_id=f"golden-{uuid.uuid4().hex}",
        adapter=None,
        slicing=Slicing(prompts_per_job=_PROMPTS_PER_JOB),
        submitted_at=time.time(),
        deadlines=Deadlines(keep_partials=0.0),  # a completion that is gone on with is another draw
    )
    await enqueue(connection, keys, submission)
    return BatchHandle(connection=connection, keys=keys, batch=submission.batch)


async def _answers(handles: Sequence[BatchHandle], show: Callable[[int], None]) -> list[list[Answer]]:
    done, found = 0, []
    for handle in handles:
        answers: dict[int, Answer] = {}
        async for answer in handle.groups():
            answers[answer.group] = answer
            done += 1
            show(done)
        found.append([answers[group] for group in sorted(answers)])
    return found


def completions_of(answer: GroupResult) -> list[Now]:
    """The completions of one answer, without padding."""
    ids, lengths = answer.token_ids.numpy(), answer.lengths.tolist()
    logprobs = None if answer.logprobs is None else answer.logprobs.numpy()
    return [
        Now(token_ids=ids[row, :length], logprobs=None if logprobs is None else logprobs[row, :length])
        for row, length in enumerate(lengths)
    ]


def told(error: GroupError) -> str:
    """Why there is no completion, in a few words."""
    return f"{error.code}: {error.field}: {error.message}"
