"""The arguments of a session's calls, checked before anything is written. Pure."""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from rollstream.schemas import NameRefusedError, Turn
from rollstream.schemas.hashes.sessions import LONGEST_REQUEST_ID, MAX_TURN_NOTE_BYTES
from rollstream.schemas.times import LONGEST_SESSION_RETENTION_S, SHORTEST_SESSION_RETENTION_S

from ..calls.arguments import number
from ..errors import ArgumentError

Parent: TypeAlias = Turn | tuple[str, int, int] | Literal["last"] | None
"""What a turn goes on from: a completion, the newest turn's only one, or nothing."""

_REQUEST = re.compile(rf"[\x21-\x7e]{{1,{LONGEST_REQUEST_ID}}}")
_STEM = 100
"""So many characters of a session's name begin the ids of its batches, which have 128 at most."""


def retention(value: object) -> int:
    """For how many seconds a session is kept. Raises `ArgumentError`."""
    seconds = number(value)
    least, most = SHORTEST_SESSION_RETENTION_S, LONGEST_SESSION_RETENTION_S
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not least <= seconds <= most:
        raise ArgumentError("retention_s", value, f"give seconds from {least} to {most}")
    return int(seconds)


def request_name(value: object) -> str:
    """The request id, or one that no other request has. Raises `ArgumentError`."""
    if value is None:
        return uuid.uuid4().hex
    if isinstance(value, str) and _REQUEST.fullmatch(value):
        return value
    raise ArgumentError("request_id", value, f"give 1 to {LONGEST_REQUEST_ID} printable ASCII characters, no blanks")


def note_bytes(value: object) -> bytes:
    """Raises `ArgumentError`."""
    if not isinstance(value, bytes) or len(value) > MAX_TURN_NOTE_BYTES:
        raise ArgumentError("note", value, f"give at most {MAX_TURN_NOTE_BYTES} bytes")
    return value


def parent_of(name: str, value: Any) -> Turn | None:
    """The turn that was named. Raises `ArgumentError`."""
    if value is None or isinstance(value, Turn):
        return value
    rule = "give a Turn, (batch_id, 0, sample) or None"
    if isinstance(value, str | bytes | Mapping):
        raise ArgumentError(name, value, rule)
    try:
        batch_id, group, sample = value
        return Turn(batch_id=batch_id, group=number(group), sample=number(sample))
    except (TypeError, ValueError, NameRefusedError):  # a refusal of pydantic's is a ValueError
        raise ArgumentError(name, value, rule) from None


def one_prompt(value: Any) -> list[Any]:
    """The rows that a submit takes, from the ids of one prompt. Raises `ArgumentError`."""
    ids: list[Any] | None = None
    if hasattr(value, "ndim") and value.ndim == 1:
        ids = value.tolist()
    elif isinstance(value, list | tuple) and not any(isinstance(one, list | tuple) for one in value):
        ids = list(value)
    if ids == []:
        raise ArgumentError("new_ids", value, "give at least one id: a turn has something new")
    if ids is not None:
        return [ids]
    raise ArgumentError("new_ids", value, "give the ids of one prompt: a flat list, or a tensor or array of one side")


def batch_of(session: str, request_id: str) -> str:
    """The id of a turn's batch: the same for the same request."""
    digest = hashlib.sha256(f"{session}\n{request_id}".encode()).hexdigest()
    return f"{session[:_STEM]}.{digest[:20]}"
