"""What a session keeps of each of its turns. It is written before the turn's batch is queued."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ...hashes.sessions import LONGEST_REQUEST_ID, MAX_TURN_NOTE_BYTES
from ..fields import BatchId, Count, Digest
from ..images import Images
from ..messages import Message
from ..turns import Turn

RequestId = Annotated[str, Field(pattern=rf"^[\x21-\x7e]{{1,{LONGEST_REQUEST_ID}}}$")]
"""Printable ASCII without blanks, as it stands in a header of HTTP."""


class SessionTurn(Message):
    """A turn that is about to be submitted, or was: a batch of one prompt."""

    kind: Literal["session_turn"] = "session_turn"
    request_id: RequestId
    batch_id: BatchId
    digest: Digest
    """The batch's content digest: a request is repeated with the same content only."""
    at: Annotated[float, Field(ge=0, lt=1e11)]
    """Unix seconds, by the clock of the process that submits it."""
    samples: Count = 1
    """How many completions it asks for."""
    parent: Turn | None = None
    """The completion that it goes on from, of a turn of the same session; None: it begins the conversation."""
    note: Annotated[bytes, Field(max_length=MAX_TURN_NOTE_BYTES)] = b""
    """The submitter's own."""
    images: Images = ()
    """Those that were submitted with it: they stay as long as the session."""

    def completion(self, sample: int = 0) -> Turn:
        """One of its completions, for `continue_of` and `trajectory`."""
        return Turn(batch_id=self.batch_id, group=0, sample=sample)
