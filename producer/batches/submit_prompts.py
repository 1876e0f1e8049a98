"""Queue prompts: what was given is read, the options are checked, and jobs are made of both."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial

from rollstream.schemas import GenerationConfig, Keys

from ..calls.arguments import number
from ..images.given import read_images
from ..order.prompt_lengths import PromptLengths
from ..order.slicing import Slicing
from ..policies.version_bounds import VersionBounds
from ..redis_io.connection import Connection
from ..turns.conversation import Conversation
from .deadlines import Deadlines
from .handle import BatchHandle
from .prompts import Prompts, Rows
from .submission import Submission, split
from .submit_and_wait import queue
from .submit_options import SubmitOptions
from .worker_limits import check_config_candidates

Making = Callable[[str], Submission]
"""Makes the submission under a batch's id; it raises what `split` raises."""
Before = Callable[[Submission], Awaitable[None]]
"""What has to be done before the first job is queued."""


async def submit_prompts(
    connection: Connection,
    keys: Keys,
    make: Making,
    config: GenerationConfig,
    batch_id: str | None,
    before: Before | None = None,
    lengths: PromptLengths | None = None,
) -> BatchHandle:
    """Queue what `make` makes; `lengths` remembers its answers.

    Raises what `AsyncClient.submit` raises, and what `before` raises.
    """
    await check_config_candidates(connection, keys, config)
    queued, again = await queue(connection, keys, batch_id, make, before)
    return BatchHandle(
        connection=connection,
        keys=keys,
        batch=queued.batch,
        again=again,
        seen=None if lengths is None else lengths.note,
    )


async def making(
    rows: Rows,
    attention_mask: Rows | None,
    config: GenerationConfig,
    options: SubmitOptions,
    lengths: PromptLengths | None = None,
) -> Making:
    """Read prompts and options, which are complete; `lengths` says what to expect where the options do not.

    Raises `PromptsError`, one of which is `ImagesError`, `DeadlineError`, `VersionBoundError`, `ArgumentError`.
    """
    prompts, expected = Prompts.of(rows, attention_mask), options["expected_tokens"]
    conversation = Conversation.of(
        len(prompts.ids), options["continue_of"], options["session"], options["session_wait_s"]
    )
    if expected is None and lengths is not None:
        expected = lengths.expected(prompts.ids, conversation.continue_of)
    make = partial(
        split,
        prompts,
        config,
        adapter=options["adapter"],
        slicing=Slicing.of(
            config,
            len(prompts.ids),
            prompts_per_job=options["prompts_per_job"],
            samples_per_job=options["samples_per_job"],
            expected=expected,
        ),
        submitted_at=time.time(),
        first_groups=number(options["first_groups"]),
        deadlines=Deadlines.of(options["queue_deadline_s"], options["run_deadline_s"], options["keep_partials"]),
        bounds=VersionBounds.of(options["min_policy_version"], options["max_staleness"]),
        conversation=conversation,
        images=await read_images(options["images"], len(prompts.ids), options["image_quota_bytes"]),
    )
    return lambda batch_id: make(batch_id=batch_id)
