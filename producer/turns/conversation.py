"""Which earlier completions the prompts of a batch go on from, and the session that they are turns of. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

from rollstream.schemas import NameRefusedError, Turn
from rollstream.schemas.errors import shown
from rollstream.schemas.keys import check_name
from rollstream.schemas.wire.turns import LONGEST_SESSION_WAIT_S, SESSION_WAIT_S

from ..calls.arguments import number
from ..errors import ArgumentError, PromptsError

ContinueOf: TypeAlias = "Sequence[Turn | tuple[str, int, int] | None] | None"
"""For each prompt the completion that it goes on from, as `(batch_id, group, sample)`; None: it goes on from none."""

_NAME = "continue_of"
_MOST = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What a batch continues is part of its content; the session and the wait for its worker are none."""

    continue_of: tuple[Turn | None, ...] = ()
    """One for each prompt; empty if none goes on from anything."""
    session: str | None = None
    session_wait_s: float = SESSION_WAIT_S

    @classmethod
    def of(cls, prompts: int, continue_of: Any, session: Any, session_wait_s: Any) -> Self:
        """Read what was given for so many prompts. Raises `PromptsError`, `ArgumentError`, `NameRefusedError`."""
        return cls(
            continue_of=_turns(continue_of, prompts),
            session=None if session is None else check_name("session", session),
            session_wait_s=_seconds(session_wait_s),
        )

    @property
    def content(self) -> dict[str, Any]:
        """What it adds to the content of the batch; nothing if no prompt goes on from anything."""
        return {"continue_of": [turn and turn.model_dump() for turn in self.continue_of]} if self.continue_of else {}

    def check_begins_elsewhere(self, batch_id: str) -> None:
        """Raises `PromptsError` if a prompt goes on from the batch that it is itself of, which has no answer yet."""
        row = next((row for row, turn in enumerate(self.continue_of) if turn and turn.batch_id == batch_id), None)
        if row is not None:
            problem = f"names batch {batch_id!r}, which is this one: name an earlier batch, or None for a new one"
            raise PromptsError(_NAME, problem, row)

    def of_rows(self, rows: range) -> tuple[Turn | None, ...]:
        """What these prompts go on from; empty if none of them does."""
        turns = self.continue_of[rows.start : rows.stop]
        return turns if any(turns) else ()


NO_CONVERSATION = Conversation()


def _turns(given: Any, prompts: int) -> tuple[Turn | None, ...]:
    if given is None:
        return ()
    if isinstance(given, str | bytes | Turn) or not isinstance(given, Sequence):
        what = f"{prompts} items, a (batch_id, group, sample) or None for each prompt"
        raise PromptsError(_NAME, f"got {type(given).__name__}: expected a list of {what}")
    if len(given) != prompts:
        problem = f"{len(given)} items, but input_ids has {prompts} rows: give one for each prompt, None for a new one"
        raise PromptsError(_NAME, problem)
    turns = tuple(None if one is None else _turn(one, row) for row, one in enumerate(given))
    return turns if any(turns) else ()


def _turn(given: Any, row: int) -> Turn:
    if isinstance(given, Turn):
        return given
    if isinstance(given, str | bytes) or not isinstance(given, Sequence) or len(given) != 3:
        problem = f"got {_named(given)}: write (batch_id, group, sample), such as (handle.batch_id, 0, 0)"
        raise PromptsError(_NAME, problem, row)
    batch_id, group, sample = given[0], number(given[1]), number(given[2])
    for value in (group, sample):
        if type(value) is not int or not 0 <= value <= _MOST:
            raise PromptsError(_NAME, f"{shown(value)} is no integer from 0 to {_MOST}", row)
    try:
        return Turn(batch_id=check_name("batch_id", batch_id), group=group, sample=sample)
    except NameRefusedError as error:
        raise PromptsError(_NAME, str(error), row) from None


def _named(given: Any) -> str:
    if isinstance(given, list | tuple):
        return f"a {type(given).__name__} of {len(given)} items"
    return shown(given) if isinstance(given, str | bytes | int | float) else f"a {type(given).__name__}"


def _seconds(given: Any) -> float:
    seconds = number(given)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= LONGEST_SESSION_WAIT_S:
        rule = f"give seconds from 0 (wait for no worker) to {LONGEST_SESSION_WAIT_S:g}"
        raise ArgumentError("session_wait_s", given, rule)
    return float(seconds)
