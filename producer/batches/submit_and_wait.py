"""The two halves of a client's calls, whatever they ask for: queue a batch, and wait for what was queued."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

from rollstream.schemas import Keys

from ..errors import ResultTimeoutError
from ..redis_io.connection import Connection
from .batch_spans import described, submitting, traced, traceparent_of
from .submission import AnySubmission
from .submit_jobs import Resubmission, enqueue

S = TypeVar("S", bound=AnySubmission[Any])
H = TypeVar("H")
T = TypeVar("T")


async def queue(
    connection: Connection,
    keys: Keys,
    batch_id: str | None,
    make: Callable[[str], S],
    before: Callable[[S], Awaitable[None]] | None = None,
) -> tuple[S, Resubmission[S]]:
    """Make a submission under `batch_id`, or under an id of its own, await `before` it, and queue it.

    Raises what `enqueue` raises.
    """
    again: Resubmission[S] = Resubmission(connection=connection, keys=keys)
    with submitting() as span:
        submission = make(new_id() if batch_id is None else batch_id)
        described(span, keys, submission.batch)
        submission = traced(submission, await traceparent_of(span, connection, keys, batch_id))
        if before is not None:
            await before(submission)
        is_new = await enqueue(connection, keys, submission)
    again.queued(submission, is_repeat=not is_new)
    return submission, again


def new_id() -> str:
    """An id that no other batch has."""
    return uuid.uuid4().hex


class OneCall(NamedTuple):
    """A call that submits and then reads."""

    batch_id: str
    groups: Callable[[], int]
    """Asked only where time is up: before `submit` has read what was given, it may have no length."""
    timeout: float | None
    """Seconds for both, or None for no limit."""
    url: str

    async def make(self, submit: Callable[[], Awaitable[H]], read: Callable[[H, float | None], Awaitable[T]]) -> T:
        """Submit, then read in what is left of `timeout`.

        Raises `ResultTimeoutError`, also where Redis does not answer.
        """
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            async with asyncio.timeout(self.timeout):
                handle = await submit()
            return await read(handle, None if self.timeout is None else max(0.0, self.timeout - (clock() - began)))
        except TimeoutError:
            silent = f"Redis at {self.url} has not taken all of it"
            raise ResultTimeoutError(self.batch_id, 0, self.groups(), self.timeout or 0, silent) from None
        except ResultTimeoutError as late:
            told = late.batch_id, late.done, late.total, self.timeout or 0, late.waiting_for
            raise ResultTimeoutError(*told) from None
