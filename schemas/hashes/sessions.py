"""A session: the turns of one conversation, in the order in which they were begun; the fields of its hash in Redis."""

from __future__ import annotations

from enum import StrEnum

MAX_TURNS = 10_000
"""The most turns of a session."""
MAX_TURN_NOTE_BYTES = 65_536
MAX_SESSION_BYTES = 64 * 2**20
"""The most bytes that the turns of a session may have together, with their notes."""
LONGEST_REQUEST_ID = 200


class SessionField(StrEnum):
    """Fields of a session's hash. `append.lua` writes them; times are Unix seconds of Redis' clock."""

    TOKEN = "token"  # noqa: S105 - a name, and what it names is no secret
    """Tells the session from an earlier one of its name, which Redis has lost or dropped."""
    COUNT = "count"
    """How many turns it has."""
    BYTES = "bytes"
    """The bytes of all of them."""
    OPENED_AT = "opened_at"
    SEEN_AT = "seen_at"
    """The last time that a turn was submitted."""
    KEPT_FOR = "kept_for"
    """Its retention in seconds."""
    RENEWED_AT = "renewed_at"
    """When the results of all its turns were given their full time last."""

    @staticmethod
    def turn(number: int) -> str:
        """A `SessionTurn`; the first has number 0."""
        return f"turn:{number}"

    @staticmethod
    def of(batch_id: str) -> str:
        """The number of the turn whose batch it is."""
        return f"of:{batch_id}"
