"""A batch that is submitted through a run: first the intent, then the jobs, each of which may be repeated."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

from rollstream.schemas.keys import check_name

from ..batches.submission import AnySubmission
from ..batches.submit_options import SubmitOptions
from ..errors import BatchCancelledError, BatchConflictError
from ..queue_errors import TooLargeForRedisError
from ..run_errors import BatchConsumedError
from .arguments import admitted_at
from .book import RunHandle
from .options import RunSubmitOptions, client_part
from .writer import RunWriter, withdrawn_quietly

S = TypeVar("S", bound=AnySubmission[Any])
H = TypeVar("H", bound=RunHandle)

_REFUSALS = (BatchConflictError, BatchCancelledError, BatchConsumedError, TooLargeForRedisError)
"""Redis' answers after which a batch will not be queued."""


def terms_of(options: RunSubmitOptions) -> tuple[SubmitOptions, int | None]:
    """What a client's submit would be given, and the version of the admission. Raises `ArgumentError`."""
    admitted, terms = admitted_at(options["admitted"]), client_part(options)
    if terms["min_policy_version"] is None and admitted:
        terms["min_policy_version"] = admitted
    return terms, admitted


async def submit_through(
    writer: RunWriter,
    make: Callable[[str], S],
    queue: Callable[[Callable[[str], S], str, Callable[[S], Awaitable[None]]], Awaitable[H]],
    *,
    batch_id: str | None,
    note: bytes,
    admitted: int | None = None,
) -> H:
    """See `Run.submit`; `make` makes the submission, and `queue` queues it, after what it is told to do before."""
    book, name = writer.book, writer.held.fence.name
    if batch_id is None:
        chosen, place = book.name(lambda: make(name).digest)
    else:
        chosen, place = check_name("batch_id", batch_id), book.number_of(batch_id)
    was_there = chosen in book.entries

    def marked(as_named: str) -> S:
        return replace(make(as_named), run=name, keep_s=writer.held.kept_for)

    async def intend(submission: S) -> None:
        await writer.intend(submission, place, admitted=admitted, note=note)

    try:
        with book.chosen(chosen):
            handle = await queue(marked, chosen, intend)
            entry = book.entries[chosen]
            if was_there or batch_id is not None:
                await writer.keep(entry, handle)
            entry.handle, entry.missing, entry.is_left = handle, "", False
    except BaseException as error:
        there = book.entries.get(chosen)
        if there is not None and not was_there and isinstance(error, _REFUSALS):
            await withdrawn_quietly(writer, there)
        elif there is not None and there.handle is None:
            there.is_left = True  # the same content submitted again is this batch
        raise
    return handle
