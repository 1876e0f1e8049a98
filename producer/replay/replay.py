"""Queue finished or dead jobs again as new batches; the originals and their results stay unchanged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from rollstream.schemas import Keys
from rollstream.schemas.wire.entry_fields import PAYLOAD
from rollstream.schemas.wire.scores import Description

from ..batches.batch_spans import described, submitting, traceparent_of
from ..batches.ledger import read_description
from ..batches.submit_jobs import enqueue, is_queued, lost
from ..errors import (
    JobGoneError,
    NothingToReplayError,
    PartialBatchError,
    UnknownBatchError,
    UnreadableResultError,
)
from ..images.upload import renew_images
from ..redis_io.connection import Connection
from .criteria import ByBatch, Selector
from .images_of import images_of
from .plan import Placed, Replay, plan
from .selection import Place, Selection, Skipped, read_letters, read_range, select

_AT_ONCE = 16
"""How many jobs are read and queued together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What a replay would queue, and what it leaves out."""

    replays: list[Replay]
    skipped: list[Skipped]
    unfinished: int = 0
    """How many of the jobs to queue still wait or run as originals."""


class Pace:
    """At most `per_s` jobs a second (None: no limit). After a stall it does not hurry to catch up."""

    def __init__(self, per_s: float | None = None) -> None:
        self.at_once = _AT_ONCE if per_s is None else 1
        self._pause_s = 0.0 if per_s is None else 1 / per_s
        self._next = 0.0

    async def wait(self) -> None:
        """Return when the next `at_once` jobs may be queued."""
        now = asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, self._next - now))
        self._next = max(self._next, now) + self._pause_s


async def replay_dead(connection: Connection, keys: Keys, letters: Sequence[Place], batch_id: str) -> Replay:
    """Queue the jobs of dead letters, all of one batch, again as the batch `batch_id`; the letters stay.

    A letter's place is `Place(keys.dead(partition), entry id in that stream)`. Safe to repeat with the same letters and
    `batch_id`, also after a failure half-way: only what is not queued yet is queued. So a requeue derives `batch_id`
    from the letter, calls this, and drops the letter afterwards.

    Raises `NothingToReplayError` when a letter is gone or unreadable, or when letters are of different batches, and
    what `queue_replay` raises. After an error the caller must not drop any letter.
    """
    what = f"dead letter {', '.join(letter.entry_id for letter in letters)}"
    selection = await read_letters(connection, letters)
    prepared = await _planned(connection, keys, selection, lambda _: batch_id)
    if prepared.skipped:
        raise NothingToReplayError(what, prepared.skipped[0].reason)
    if len(selection.jobs) < len(letters):
        raise NothingToReplayError(what, "not there (any more)")
    if len(prepared.replays) != 1:
        raise NothingToReplayError(what, f"of {len(prepared.replays)} batches")
    return await queue_replay(connection, keys, prepared.replays[0])


async def prepare(
    connection: Connection,
    keys: Keys,
    selector: Selector,
    named: Callable[[str], str],
    seen: Callable[[int], None] = lambda _: None,
) -> Prepared:
    """What replaying the selection would queue; writes nothing. `named` turns an original's batch id into the new one.

    Raises `NothingToReplayError` when no job is left, `PartialBatchError` when a whole batch was asked for and some of
    its jobs are gone, and what `select` raises.
    """
    selection = await select(connection, keys, selector, seen)
    prepared = await _planned(connection, keys, selection, named)
    if not prepared.replays:
        raise NothingToReplayError(str(selector), _why_nothing(prepared.skipped, selection.total, keys))
    if isinstance(selector, ByBatch) and not selector.partial:
        _refuse_partial(selector.batch_id, prepared, selection.total or 0)
    return prepared


async def queue_replay(
    connection: Connection,
    keys: Keys,
    replay: Replay,
    pace: Pace | None = None,
    seen: Callable[[int], None] = lambda _: None,
) -> Replay:
    """Queue the jobs of the new batch that are not queued yet. `seen` gets their number before and after each step.

    Returns the replay as it was queued: if spans are recorded it has a trace of its own, linked to the original's.

    If an error or a cancellation ends the call half-way, the same call again completes the batch.
    Raises `ImagesGoneError` before anything is queued, `JobGoneError` when a job was trimmed meanwhile,
    `UnknownBatchError` when Redis lost the first jobs, and what `queue` raises.
    """
    await renew_images(connection, keys, await images_of(connection, keys, replay))
    with submitting() as span:
        described(span, keys, replay.batch)
        if replay.original is not None and replay.original.traceparent is not None:
            span.link(replay.original.traceparent)
        replay = replay.traced(await traceparent_of(span, connection, keys, replay.batch.batch_id))
        await _queue(connection, keys, replay, pace or Pace(), seen)
    return replay


async def _queue(connection: Connection, keys: Keys, replay: Replay, pace: Pace, seen: Callable[[int], None]) -> None:
    for start in range(0, len(replay.jobs), pace.at_once):
        piece = replay.jobs[start : start + pace.at_once]
        opened = [(placed, await _payload(connection, placed)) for placed in piece]
        await pace.wait()
        seen(start)
        await enqueue(connection, keys, replay.submission(opened))
        seen(start + len(piece))
    if not await is_queued(connection, keys, replay.batch.batch_id, 0):
        raise lost(replay.batch.batch_id, keys)


async def _planned(connection: Connection, keys: Keys, selection: Selection, named: Callable[[str], str]) -> Prepared:
    originals: dict[str, Description] = {}
    for batch_id in sorted({job.origin.batch_id for job in selection.jobs}):
        try:
            originals[batch_id] = await read_description(connection, keys, batch_id)
        except (UnknownBatchError, UnreadableResultError):
            continue  # a job may outlive its batch's ledger, and can be replayed without it
    replays, skipped = plan(selection.jobs, originals, named, time.time())
    return Prepared(replays=replays, skipped=[*selection.skipped, *skipped], unfinished=selection.unfinished)


async def _payload(connection: Connection, placed: Placed) -> bytes:
    place = placed.selected.place
    async for _, fields in read_range(connection, place.stream, place.entry_id, place.entry_id):
        payload = fields.get(PAYLOAD, b"")
        if sha256(payload).digest() == placed.selected.sha256:
            return payload
    raise JobGoneError(place.stream, place.entry_id)


def _refuse_partial(batch_id: str, prepared: Prepared, total: int) -> None:
    left = len(prepared.replays[0].jobs)
    if left < total:
        problem = prepared.skipped[0].reason if prepared.skipped else "trimmed, or never queued"
        raise PartialBatchError(batch_id, left, total, problem)


def _why_nothing(skipped: list[Skipped], total: int | None, keys: Keys) -> str:
    if skipped:
        return f"{len(skipped)} were found and none can be queued again: {skipped[0].reason}"
    if total is not None:
        return f"its {total} jobs are gone, trimmed after the workers' retention"
    return f"policy {keys.policy!r} has none in {keys.partitions} partitions: trimmed, another policy's, or never there"
