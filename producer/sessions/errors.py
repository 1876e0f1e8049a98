"""What goes wrong with a session: a request repeated with other content, no room, a turn without a usable answer."""

from __future__ import annotations

from rollstream.schemas import Turn
from rollstream.schemas.errors import shown
from rollstream.schemas.hashes.sessions import MAX_SESSION_BYTES, MAX_TURNS

from ..errors import ProducerError

_MOST_NAMED = 8
"""Leaves that an error's text names; `leaves` has them all."""


class SessionError(ProducerError):
    """Base of the errors of a `Session`."""

    def __init__(self, session: str, policy: str, problem: str) -> None:
        super().__init__(f"session {session!r} of policy {policy!r}: {problem}")
        self.session = session
        self.policy = policy
        self.problem = problem


class UnknownSessionError(SessionError):
    """Raised when a session has no turns (any more)."""

    def __init__(self, session: str, policy: str) -> None:
        super().__init__(session, policy, "unknown: no turn was submitted, or its retention is over")


class UnreadableSessionError(SessionError):
    """Raised when Redis holds something for a session that no submit writes. Nothing was changed; `field` names it."""

    def __init__(self, session: str, policy: str, field: str, problem: str) -> None:
        super().__init__(session, policy, f"its field {shown(field)} {problem}: go on under another name")
        self.field = field


class RequestConflictError(SessionError):
    """Raised when a request id is repeated with other content: other ids, config, parent or options. Nothing was
    queued.
    """

    def __init__(self, session: str, policy: str, request_id: str) -> None:
        problem = f"request {request_id!r} was submitted with other content: repeat it as it was, or take another id"
        super().__init__(session, policy, problem)
        self.request_id = request_id


class SessionFullError(SessionError):
    """Raised when one more turn is more than a session may have. Nothing was queued."""

    def __init__(self, session: str, policy: str, turns: int, nbytes: int) -> None:
        problem = (
            f"has {turns} turns of {nbytes} bytes, with this one more than {MAX_TURNS} turns or {MAX_SESSION_BYTES} "
            "bytes: go on under another name, with the whole conversation as its first prompt"
        )
        super().__init__(session, policy, problem)
        self.turns = turns
        self.nbytes = nbytes


class NoSuchTurnError(SessionError):
    """Raised when a turn is named that is none of the session's. Nothing was queued."""

    def __init__(self, session: str, policy: str, turn: str, problem: str = "") -> None:
        told = problem or "is no turn of this session, or Redis has lost it: session.turns() has all"
        super().__init__(session, policy, f"{turn} {told}")
        self.turn = turn


class SessionLostError(SessionError):
    """Raised when Redis has lost turns while this one was submitted. Its batch `batch_id` is queued, and is in no
    session.
    """

    def __init__(self, session: str, policy: str, batch_id: str) -> None:
        problem = (
            f"Redis lost turns of it while batch {batch_id!r} was submitted, among them the one it goes on from: begin "
            "the conversation again, with all of it as the first prompt"
        )
        super().__init__(session, policy, problem)
        self.batch_id = batch_id


class NotOneLeafError(SessionError):
    """Raised when a session has several trajectories, or none, and one was asked for. `leaves` are their ends."""

    def __init__(self, session: str, policy: str, leaves: tuple[Turn, ...]) -> None:
        named = ", ".join(map(str, leaves[:_MOST_NAMED]))
        more = f" and {len(leaves) - _MOST_NAMED} more" if len(leaves) > _MOST_NAMED else ""
        ends = f"{len(leaves)} conversations end at {named}{more}: name one as leaf=, or ask for trajectories()"
        super().__init__(session, policy, ends if leaves else "none of its turns can be used")
        self.leaves = leaves


class TurnError(SessionError):
    """Base of what is wrong with one turn of a trajectory. `turn` is it, `request_id` is what it was submitted by.

    `Session.trajectories(skip=...)` leaves out turns with such errors, and what goes on from them.
    """

    def __init__(self, session: str, policy: str, turn: Turn, request_id: str, problem: str) -> None:
        super().__init__(session, policy, f"turn {request_id!r} ({turn}) {problem}")
        self.turn = turn
        self.request_id = request_id


class TurnUnfinishedError(TurnError):
    """Raised when a turn has no answer yet."""

    def __init__(self, session: str, policy: str, turn: Turn, request_id: str) -> None:
        problem = f"is under way: wait for it with client.attach({turn.batch_id!r}), or skip=TurnUnfinishedError"
        super().__init__(session, policy, turn, request_id, problem)


class TurnFailedError(TurnError):
    """Raised when a turn was answered with an error; `code` is its `ErrorCode`, as a text."""

    def __init__(self, session: str, policy: str, turn: Turn, request_id: str, code: str, message: str) -> None:
        problem = f"failed ({code}: {message}): submit it under another request id, and use skip=TurnFailedError"
        super().__init__(session, policy, turn, request_id, problem)
        self.code = code
        self.message = message


class TurnGoneError(TurnError):
    """Raised when Redis has no answer to a turn that anybody will give: never queued, expired, deleted, unreadable."""

    def __init__(self, session: str, policy: str, turn: Turn, request_id: str, why: str) -> None:
        problem = f"{why}: repeat its submit with the same request id and content, or skip=TurnGoneError"
        super().__init__(session, policy, turn, request_id, problem)
        self.why = why


class TurnCutError(TurnError):
    """Raised when a turn has an answer without the completion that is named: it was cut, or never asked for."""

    def __init__(self, session: str, policy: str, turn: Turn, request_id: str, there: tuple[int, ...]) -> None:
        named = ", ".join(map(str, there[:_MOST_NAMED]))
        super().__init__(session, policy, turn, request_id, f"has no such completion, only those of samples {named}")
        self.there = there


class TurnMismatchError(TurnError):
    """Raised when a turn's answer does not go on from the turn before it, token for token. It is never trained on."""

    def __init__(self, session: str, policy: str, turn: Turn, request_id: str, problem: str) -> None:
        super().__init__(session, policy, turn, request_id, f"{problem}: leave it out with skip=TurnMismatchError")
