"""Which announced version is the one to serve, and how another one becomes it.

It is the newer of two: the newest version that was announced `at_once`, and the last of the activations stream.
"""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from rollstream.schemas import Activation, Keys, SchemaError, decode
from rollstream.schemas.entry_id import MAX_VERSION, EntryId
from rollstream.schemas.hashes.runs import RunFence
from rollstream.schemas.printable import printable
from rollstream.schemas.wire.entry_fields import PAYLOAD
from rollstream.transport.versions.scripts import activate as activate_script
from rollstream.transport.weights import WeightStore

from ..calls.arguments import number
from ..redis_io.connection import Connection
from ..run_errors import not_held
from .errors import ActivationError
from .stored_weights import lost_weights
from .versions_stream import RECENT, Announced, all_versions, announced_version, read_version

_LONGEST_BY = 200


async def activate(
    connection: Connection,
    keys: Keys,
    version: object,
    by: object,
    store: WeightStore | None = None,
    fence: RunFence | None = None,
) -> None:
    """See `AsyncClient.activate`; `store` is looked at if the client has one, `fence` if a run's trainer asks."""
    wanted = number(version)
    if type(wanted) is not int or not 1 <= wanted <= MAX_VERSION:
        raise ActivationError(version, f"a version is an integer from 1 to {MAX_VERSION}")
    active = await newest_version(connection, keys)
    if wanted == active:
        return
    if wanted < active:
        raise _older(wanted, active, await announced_version(connection, keys))
    found = await read_version(connection, keys, wanted)
    announcement = None if found is None else found.announcement
    if announcement is not None and (lost := await lost_weights(store, announcement)):
        raise ActivationError(wanted, f"{lost}: publish them again under a new number", active)
    sha256 = "" if announcement is None else announcement.sha256
    activation = Activation(version=wanted, by=_name(wanted, by), at=time.time(), sha256=sha256)
    what = "activate a policy version"
    done = await connection.call(what, lambda redis: activate_script(redis, keys, activation, fence))
    if fence is not None and done.taken is not None:
        raise not_held(keys.policy, fence, done.taken)
    if done.outcome == "older":  # somebody else was quicker
        raise _older(wanted, done.last or active, await announced_version(connection, keys))
    if done.outcome == "unknown":
        end = await announced_version(connection, keys)
        told = f"nobody has announced it, the newest is {end}" if end < wanted else "the stream has it no more"
        raise ActivationError(wanted, f"{told}: publish its weights first", active)


async def newest_version(connection: Connection, keys: Keys) -> int:
    """The version to serve; 0 if there is none. Raises `RedisUnavailableError`."""
    active = await newest_active(connection, keys)
    return 0 if active is None else active.version


async def newest_active(connection: Connection, keys: Keys) -> Announced | None:
    """The entry of the version to serve; None if there is none. Raises `RedisUnavailableError`.

    An activation above every announcement, or of other content than was announced under its number, belongs to a
    versions stream that is gone, and says nothing.
    """
    activation = await _last_activation(connection, keys)  # first, since each follows its announcement
    last = 0 if activation is None else activation.version
    end = 0
    async for one in all_versions(connection, keys):
        end = max(end, one.version)
        if one.version < last <= end:
            break
        if activation is not None and one.version == last and not _is_of(activation, one):
            last = 0  # it is of a former stream, and so are all before it
        if one.is_at_once or one.version == last:
            return one
    if 0 < last <= end:
        return Announced(entry_id=str(EntryId(last)), announcement=None, problem="its announcement is gone")
    return None


async def _last_activation(connection: Connection, keys: Keys) -> Activation | None:
    """The last of the activations stream; None if it has none."""
    entries: Any = await connection.call(
        "read the activations",
        lambda redis: redis.xrevrange(keys.activations(), f"{MAX_VERSION}", "-", count=RECENT),
    )
    return next((found for entry_id, fields in entries if (found := _activation(entry_id, fields)) is not None), None)


def _activation(entry_id: bytes, fields: dict[bytes, bytes]) -> Activation | None:
    """What an entry says; None for one that `activate.lua` has not written."""
    try:
        found = decode(fields.get(PAYLOAD, b""), Activation)
    except SchemaError:
        return None
    return found if entry_id.decode() == str(EntryId(found.version)) else None


def _is_of(activation: Activation, announced: Announced) -> bool:
    """Whether it activates what is announced, not other content under the same number."""
    sha256 = "" if announced.announcement is None else announced.announcement.sha256
    return activation.is_of(announced.version, sha256)


def _older(version: int, active: int, announced: int) -> ActivationError:
    new = max(active, announced) + 1
    way_on = f"announce its content under a new number, `rollstream publish {new} --again {version}`"
    return ActivationError(version, f"{active} was activated, and versions only grow: {way_on}", active)


def _name(version: int, by: object) -> str:
    if by is None:
        return f"{socket.gethostname()}:{os.getpid()}"[:_LONGEST_BY]
    if not isinstance(by, str) or not 1 <= len(by) <= _LONGEST_BY:
        raise ActivationError(version, f"by= names who does it, in 1 to {_LONGEST_BY} characters")
    return printable(by)[:_LONGEST_BY]
