"""A run as its hash says. Reading never fails: what no trainer wrote is left out, and named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self, TypeVar

from ...errors import NameRefusedError, SchemaError, shown
from ...field_values import count_of, seconds_of, text_of
from ...hashes.runs import LAST_NUMBER, MAX_COUNT, MAX_CURSOR_BYTES, RunField
from ...keys import check_name
from ..codec import decode
from ..messages import Message
from .runs import GateState, Intent

_INTENT = RunField.outstanding("").encode()
_SETTLED = RunField.settled("").encode()

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A trainer's run at one moment."""

    epoch: int | None = None
    token: str = ""
    holder: str = ""
    taken_at: float | None = None
    closed_at: float | None = None
    opened_at: float | None = None
    seen_at: float | None = None
    stem: str = ""
    kept_for: int | None = None
    last: int = 0
    submitted: int = 0
    consumed: int = 0
    dropped: int = 0
    cursor: bytes | None = None
    cursor_version: int = 0
    cursor_at: float | None = None
    gate: GateState | None = None
    outstanding: tuple[Intent, ...] = ()
    """In the order of submission."""
    settled: tuple[str, ...] = ()
    """Batches that were consumed or dropped, and whose results may not have their usual time to live yet.

    A name that no batch can have is not there: nothing is kept under it.
    """
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Fields that a trainer needs and cannot use, with the reason."""

    @property
    def is_held(self) -> bool:
        """Whether a trainer has opened it and not closed it; it may be dead."""
        return self.epoch is not None and self.closed_at is None

    @classmethod
    def of(cls, told: Mapping[bytes, bytes]) -> Self:
        """Never raises."""
        wrong: dict[str, str] = {}
        intents = [_intent(key, value, wrong) for key, value in told.items() if key.startswith(_INTENT)]
        return cls(
            epoch=_needed(told, RunField.EPOCH, wrong),
            token=_text(told, RunField.TOKEN),
            holder=_text(told, RunField.HOLDER),
            taken_at=_time(told, RunField.TAKEN_AT),
            closed_at=_time(told, RunField.CLOSED_AT),
            opened_at=_time(told, RunField.OPENED_AT),
            seen_at=_time(told, RunField.SEEN_AT),
            stem=_text(told, RunField.STEM),
            kept_for=count_of(told.get(RunField.KEPT_FOR.encode(), b"")),
            last=_needed(told, RunField.LAST, wrong, LAST_NUMBER) or 0,
            submitted=_needed(told, RunField.SUBMITTED, wrong) or 0,
            consumed=_needed(told, RunField.CONSUMED, wrong) or 0,
            dropped=_needed(told, RunField.DROPPED, wrong) or 0,
            cursor=_cursor(told, wrong),
            cursor_version=_needed(told, RunField.CURSOR_VERSION, wrong) or 0,
            cursor_at=_time(told, RunField.CURSOR_AT),
            gate=_gate(told, wrong),
            outstanding=tuple(sorted((one for one in intents if one is not None), key=lambda one: one.number)),
            settled=tuple(filter(_is_batch, (_name(key[len(_SETTLED) :]) for key in told if key.startswith(_SETTLED)))),
            unreadable=wrong,
        )


def _text(told: Mapping[bytes, bytes], name: RunField) -> str:
    return text_of(told.get(name.encode(), b""))


def _time(told: Mapping[bytes, bytes], name: RunField) -> float | None:
    return seconds_of(told.get(name.encode(), b""))


def _name(value: bytes) -> str:
    return value[:200].decode("utf-8", "backslashreplace")


def _is_batch(name: str) -> bool:
    try:
        check_name("batch_id", name)
    except NameRefusedError:
        return False
    return True


def _needed(told: Mapping[bytes, bytes], name: RunField, wrong: dict[str, str], most: int = MAX_COUNT) -> int | None:
    value = told.get(name.encode())
    if value is None:
        return None
    found = count_of(value)
    if found is None or found > most:
        wrong[name] = f"is {shown(value)}, no count up to {most}"
        return None
    return found


def _gate(told: Mapping[bytes, bytes], wrong: dict[str, str]) -> GateState | None:
    value = told.get(RunField.GATE.encode())
    found = None if value is None else _message(RunField.GATE, value, GateState, wrong)
    if found is not None and found.greatest > MAX_COUNT:
        wrong[RunField.GATE] = f"counts to {found.greatest}, more than {MAX_COUNT}"
        return None
    return found


def _cursor(told: Mapping[bytes, bytes], wrong: dict[str, str]) -> bytes | None:
    value = told.get(RunField.CURSOR.encode())
    if value is not None and len(value) > MAX_CURSOR_BYTES:
        wrong[RunField.CURSOR] = f"has {len(value)} bytes, more than a cursor may have"
        return None
    return value


def _message(name: str, value: bytes, kind: type[M], wrong: dict[str, str]) -> M | None:
    try:
        return decode(value, kind)
    except SchemaError as error:
        wrong[name] = str(error)
        return None


def _intent(key: bytes, value: bytes, wrong: dict[str, str]) -> Intent | None:
    field_name = _name(key)
    found = _message(field_name, value, Intent, wrong)
    if found is not None and RunField.outstanding(found.batch_id).encode() != key:
        wrong[field_name] = f"is of batch {shown(found.batch_id)}"
        return None
    if found is not None and found.number > LAST_NUMBER:
        wrong[field_name] = f"has number {found.number}, more than {LAST_NUMBER}"
        return None
    return found
