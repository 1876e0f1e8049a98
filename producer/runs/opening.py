"""Open a run: take it, and find what is there of each batch that the trainer before has left."""

from __future__ import annotations

import logging
import os
import socket
import uuid
from dataclasses import replace
from functools import partial

from rollstream.schemas import Keys, NameRefusedError
from rollstream.schemas.errors import shown
from rollstream.schemas.field_values import count_of
from rollstream.schemas.hashes.runs import LAST_NUMBER, RunFence, RunField
from rollstream.schemas.keys import check_name
from rollstream.schemas.printable import printable
from rollstream.schemas.wire.trainers.run_state import RunState
from rollstream.schemas.wire.trainers.runs import Intent

from ..batches.ledger import read_description
from ..errors import UnknownBatchError, UnreadableResultError
from ..redis_io.connection import Connection
from ..run_errors import UnreadableRunError
from ..scores.handle import handle_of
from . import scripts
from .book import Book, Entry
from .plain import NotPlainError, unpacked
from .scripts import Held

log = logging.getLogger("rollstream")


async def take(connection: Connection, keys: Keys, name: str, kept_for: int) -> tuple[Held, RunState, Book]:
    """Take the run from any trainer that has it. Raises `UnreadableRunError`, `RedisUnavailableError`."""
    token = uuid.uuid4().hex
    fence = RunFence(name=name, epoch=0, token=token)
    held = Held(keys=keys, fence=fence, kept_for=kept_for, wait=connection.access.wait)
    holder = f"{socket.gethostname()}:{os.getpid()}"[:200]
    stem = f"{name}.{token[:6]}"
    opened = await connection.call("open a run", partial(scripts.open_run, held=held, holder=holder, stem=stem))
    state = opened.state
    if opened.holder:
        log.warning("run %s was held by %s, which is told so at its next write", name, printable(opened.holder))
    _check(name, keys.policy, state)
    held = replace(held, fence=replace(fence, epoch=state.epoch or 0))
    entries = [await _entry(connection, keys, intent, kept_for) for intent in state.outstanding]
    return held, state, Book.of(state, entries)


def _check(name: str, policy: str, state: RunState) -> None:
    """Raises `UnreadableRunError` for what no trainer writes."""
    for field, problem in state.unreadable.items():
        raise UnreadableRunError(name, policy, field, problem)
    try:
        check_name("batch_id", f"{state.stem}.{LAST_NUMBER}")
    except NameRefusedError as error:
        raise UnreadableRunError(name, policy, RunField.STEM, str(error)) from None
    notes = {RunField.outstanding(one.batch_id): one.note for one in state.outstanding if one.note}
    for field, data in {RunField.CURSOR: state.cursor, **notes}.items():
        try:
            unpacked(b"\xc0" if data is None else data)
        except NotPlainError as error:
            raise UnreadableRunError(name, policy, field, str(error)) from None


async def _entry(connection: Connection, keys: Keys, intent: Intent, kept_for: int) -> Entry:
    """What is there of a batch that was left; its results do not expire now."""
    hold = partial(scripts.hold, keys=keys, batch_id=intent.batch_id, digest=intent.digest, kept_for=kept_for)
    missing = _missing(intent, await connection.call("open a run", hold))
    if not missing:
        try:
            batch = await read_description(connection, keys, intent.batch_id)
        except (UnknownBatchError, UnreadableResultError) as error:
            missing = f"cannot be read ({error})"
        else:
            return Entry(intent=intent, handle=handle_of(connection, keys, batch, attached=True), is_left=True)
    return Entry(intent=intent, missing=missing, is_left=True)


def _missing(intent: Intent, told: list[bytes | None] | None) -> str:
    """What a batch's ledger lacks, by what `hold.lua` returns; empty if all of the batch was queued."""
    if told is None:
        return "cannot be read (something else wrote the key of its ledger)"
    digest, description, groups, queued, consumed = told[:5]
    if digest is None or description is None:
        return "was never queued, or its results are gone"
    if digest != intent.digest.encode():
        return "belongs to other content by now"
    if consumed is not None:
        return f"was consumed by {shown(consumed)}"
    if queued != groups:
        return f"was queued in part: {count_of(queued or b'0') or 0} of {count_of(groups or b'') or 0} prompts"
    return ""
