"""Read which jobs a replay repeats, from the jobs streams and the dead letters, in bounded pieces. Never writes.

A selected job keeps its place and its settings, not its prompts or rows. These are read again when the job is queued,
so that a day's jobs need not fit in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from pydantic import ValidationError
from redis.asyncio import Redis

from rollstream.schemas import (
    Batch,
    DeadLetter,
    Envelope,
    ImageRef,
    Job,
    Keys,
    Origin,
    SchemaError,
    ScoreJob,
    Turn,
    WireError,
    decode,
)
from rollstream.schemas.entry_id import after
from rollstream.schemas.wire.entry_fields import LETTER, PAYLOAD, named_batch
from rollstream.schemas.wire.envelope import QueuedJob
from rollstream.schemas.wire.requires import unknown_names

from ..batches.ledger import read_description, read_job_entries
from ..errors import NothingToReplayError, UnknownBatchError
from ..operations.unfinished import read_unfinished
from ..redis_io.connection import Connection
from .asked import Asked, asked_of
from .criteria import ByBatch, ByEntry, ByLetter, ByTime, Selector

_READ_COUNT = 16
"""Entries of one read: each may be as large as a message."""
_KINDS: tuple[type[QueuedJob], ...] = (Job, ScoreJob)

Fields: TypeAlias = dict[bytes, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a payload can be read again: an entry of a stream of jobs or of dead letters."""

    stream: str
    entry_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Selected:
    """A job that can be queued again, without its prompts or rows."""

    place: Place
    origin: Origin
    """The job's batch, and the id of the entry as which it was queued."""
    groups: range
    num_groups: int
    """The number of groups of its batch."""
    prompt_tokens: int
    """All tokens of its prompts, or of its rows."""
    asked: Asked
    adapter: str | None
    lineage: tuple[Origin, ...]
    sha256: bytes
    """Digest of the payload."""
    images: frozenset[ImageRef] = frozenset()
    """All that its prompts or rows have."""
    turns: frozenset[Turn] = frozenset()
    """All that its prompts go on from, which may have images too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """An entry that was selected but cannot be queued again."""

    place: Place
    reason: str


@dataclass(slots=True, kw_only=True)
class Selection:
    """All entries that a selector found.

    The readers of the streams add to it until `select` returns it; nothing changes it afterwards.
    """

    jobs: list[Selected]
    skipped: list[Skipped]
    total: int | None = None
    """How many jobs there were when none was gone; None if unknown."""
    unfinished: int = 0
    """How many of `jobs` still wait or run."""


async def select(
    connection: Connection, keys: Keys, selector: Selector, seen: Callable[[int], None] = lambda _: None
) -> Selection:
    """Read the jobs that `selector` names; `seen` gets the number of entries read so far.

    `ByTime` leaves out batches that have unfinished jobs in its span. Raises `NothingToReplayError` for a batch that
    Redis does not know and for an entry id that several partitions have, `UnreadableResultError` for a ledger that no
    producer wrote, `NameRefusedError`, `RedisUnavailableError`.
    """
    selection = Selection(jobs=[], skipped=[])
    if isinstance(selector, ByLetter):
        await _take(selection, _letters(connection, keys, selector), _open_letter, seen)
        return selection
    if isinstance(selector, ByBatch):
        selection.total, entries = await _batch_entries(connection, keys, selector)
        await _take(selection, entries, partial(_open_job_of, selector.batch_id), seen)
    else:
        await _take(selection, _entries(connection, keys, selector), _open_job, seen)
    unfinished = await read_unfinished(connection, [(job.place.stream, job.place.entry_id) for job in selection.jobs])
    if isinstance(selector, ByTime):
        _leave_out(selection, unfinished)
    else:
        selection.unfinished = len(unfinished)
        _refuse_several(selector, keys, selection)
    return selection


def _leave_out(selection: Selection, unfinished: Mapping[tuple[str, str], str]) -> None:
    """Leave out each batch that has an unfinished job.

    A repeated command would find more of its jobs finished, and so other content under the same new batch id.
    """
    states = {job.place: unfinished.get((job.place.stream, job.place.entry_id)) for job in selection.jobs}
    batches = {job.origin.batch_id for job in selection.jobs if states[job.place]}
    for job in selection.jobs:
        if job.origin.batch_id in batches:
            reason = f"is {states[job.place]}" if states[job.place] else "is done, but other jobs of its batch are not"
            selection.skipped.append(Skipped(place=job.place, reason=f"{reason}: select it by --batch or --job"))
    selection.jobs = [job for job in selection.jobs if job.origin.batch_id not in batches]


def _refuse_several(selector: ByBatch | ByEntry, keys: Keys, selection: Selection) -> None:
    places = [*(job.place for job in selection.jobs), *(skip.place for skip in selection.skipped)]
    if isinstance(selector, ByEntry) and len(places) > 1:
        streams = {place.stream for place in places}
        numbers = [number for number in range(keys.partitions) if keys.jobs(number) in streams]
        names = " or ".join(f"{number}/{selector.entry_id}" for number in numbers)
        raise NothingToReplayError(str(selector), f"there are several: write {names}")


async def read_letters(connection: Connection, places: Iterable[Place]) -> Selection:
    """The dead letters at these places. Raises `RedisUnavailableError`."""
    selection = Selection(jobs=[], skipped=[])
    for place in places:
        await _take(selection, read_range(connection, place.stream, place.entry_id, place.entry_id), _open_letter)
    return selection


async def read_range(connection: Connection, stream: str, first: str, last: str) -> AsyncIterator[tuple[Place, Fields]]:
    """The entries of a stream within two entry ids, in bounded reads. Raises `RedisUnavailableError`."""
    position = first
    while True:
        rows = await connection.call("read entries", partial(_xrange, stream=stream, first=position, last=last))
        for entry, fields in rows:
            yield Place(stream=stream, entry_id=entry.decode()), fields
        if len(rows) < _READ_COUNT:
            return
        position = after(rows[-1][0])


async def _xrange(redis: Redis, stream: str, first: str, last: str) -> list[tuple[bytes, Fields]]:
    rows: Any = await redis.xrange(stream, first, last, count=_READ_COUNT)
    return list(rows)


async def _take(
    selection: Selection,
    entries: AsyncIterator[tuple[Place, Fields]],
    opened: Callable[[Place, Fields], Selected],
    seen: Callable[[int], None] = lambda _: None,
) -> None:
    async for place, fields in entries:
        try:
            selection.jobs.append(opened(place, fields))
        except SchemaError as error:
            selection.skipped.append(Skipped(place=place, reason=str(error)))
        seen(len(selection.jobs) + len(selection.skipped))


async def _batch_entries(
    connection: Connection, keys: Keys, selector: ByBatch
) -> tuple[int, AsyncIterator[tuple[Place, Fields]]]:
    try:
        batch = await read_description(connection, keys, selector.batch_id)
    except UnknownBatchError as error:
        problem = f"{error.problem}. Jobs that are kept longer than their batch's results are found with --since"
        raise NothingToReplayError(str(selector), problem) from None
    entry_ids = await read_job_entries(connection, keys, selector.batch_id)
    stream = keys.jobs(keys.partition(selector.batch_id))
    shares = batch.shares if isinstance(batch, Batch) else 1  # whichever of them is left is replayed for all
    return batch.num_jobs // shares, _single_entries(connection, stream, entry_ids)


async def _single_entries(
    connection: Connection, stream: str, entry_ids: list[str]
) -> AsyncIterator[tuple[Place, Fields]]:
    for entry_id in entry_ids:
        async for found in read_range(connection, stream, entry_id, entry_id):
            yield found


async def _entries(
    connection: Connection, keys: Keys, selector: ByEntry | ByTime
) -> AsyncIterator[tuple[Place, Fields]]:
    partitions: Iterable[int] = range(keys.partitions)
    if isinstance(selector, ByEntry):
        first = last = selector.entry_id
        partitions = partitions if selector.partition is None else [selector.partition]
    else:  # without a sequence number Redis takes the first and the last of that millisecond
        first, last = str(selector.since_ms), str(selector.until_ms)
    for partition in partitions:
        async for found in read_range(connection, keys.jobs(partition), first, last):
            yield found


async def _letters(connection: Connection, keys: Keys, selector: ByLetter) -> AsyncIterator[tuple[Place, Fields]]:
    last = "+" if selector.until_ms is None else str(selector.until_ms)
    for partition in range(keys.partitions):
        async for place, fields in read_range(connection, keys.dead(partition), "-", last):
            if selector.text in "\n".join(letter_texts(place, fields)):
                yield place, fields


def letter_texts(place: Place, fields: Fields) -> list[str]:
    """The texts that the FILTER of `replay --dead` and `dead ls` searches."""
    try:
        letter = decode(fields.get(LETTER, b""), DeadLetter)
    except SchemaError:
        return [place.entry_id]
    return [place.entry_id, letter.entry_id, letter.error, letter.worker, named_batch(dict(letter.fields))]


def _open_job(place: Place, fields: Fields) -> Selected:
    payload = fields.get(PAYLOAD, b"")
    envelope, job = Envelope.of(fields), queued_job(payload)
    envelope.check_names(job, payload)
    return _selected(place, place.entry_id, job, payload)


def _open_job_of(batch_id: str, place: Place, fields: Fields) -> Selected:
    selected = _open_job(place, fields)
    if selected.origin.batch_id != batch_id:
        raise WireError("Job", f"belongs to batch {selected.origin.batch_id!r}", b"")
    return selected


def _open_letter(place: Place, fields: Fields) -> Selected:
    letter = decode(fields.get(LETTER, b""), DeadLetter)
    payload = fields.get(PAYLOAD, b"")
    return _selected(place, letter.entry_id, queued_job(payload), payload)


def queued_job(payload: bytes) -> QueuedJob:
    """The job in a payload. Raises `SchemaError` for what is none."""
    return decode(payload, *_KINDS)


def _selected(place: Place, entry_id: str, job: QueuedJob, payload: bytes) -> Selected:
    if names := unknown_names(job.requires):  # queued again from here, it would lack what they stand for
        raise WireError(
            "Job", f"it requires {names}, which this release does not know: upgrade rollstream here", payload
        )
    try:
        origin = Origin(batch_id=job.batch_id, entry_id=entry_id)
    except ValidationError:
        raise WireError("DeadLetter", "entry_id is no id of an entry", payload) from None
    return Selected(
        place=place,
        origin=origin,
        groups=job.groups,
        num_groups=job.num_groups,
        prompt_tokens=(job.prompt_ids if isinstance(job, Job) else job.token_ids).shape[0],
        asked=asked_of(job),
        adapter=job.adapter,
        lineage=job.lineage,
        sha256=hashlib.sha256(payload).digest(),
        images=frozenset(ref for refs in job.images for ref in refs),
        turns=frozenset(turn for turn in job.continue_of if turn is not None) if isinstance(job, Job) else frozenset(),
    )
