"""What a trainer's run keeps of each outstanding batch, and of the gate that bounds how stale its samples are."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ...hashes.runs import MAX_NOTE_BYTES
from ..fields import BatchId, Count, Digest, Index
from ..messages import Message

Total = Annotated[int, Field(ge=0, lt=2**62)]


class Intent(Message):
    """A batch that a trainer is about to submit through its run. It is written before the batch is queued."""

    kind: Literal["intent"] = "intent"
    batch_id: BatchId
    number: Count
    """Its place in the order of submission."""
    digest: Digest
    """The batch's content digest."""
    samples: Count
    """Completions that it asks for, or rows to score."""
    intended_at: Annotated[float, Field(ge=0, lt=1e11)]
    """Unix seconds, the trainer's clock."""
    admitted: Index | None = None
    """The policy version at which the gate admitted it."""
    note: Annotated[bytes, Field(max_length=MAX_NOTE_BYTES)] = b""
    """The trainer's own, as msgpack."""


class GateState(Message):
    """What a staleness gate has counted. What is outstanding is not in it: the run's batches say that."""

    kind: Literal["gate"] = "gate"
    version: Total
    first_version: Total
    consumed: Total = 0
    failed: Total = 0
    returned: Total = 0
    late: Total = 0
    cut: Total = 0
    staleness: Annotated[tuple[tuple[Total, Total], ...], Field(max_length=100_000)] = ()
    """`(staleness, samples)` of the consumed samples, in order."""

    @property
    def greatest(self) -> int:
        """The greatest number in it."""
        counts = self.version, self.first_version, self.consumed, self.failed, self.returned, self.late, self.cut
        return max(*counts, *(number for pair in self.staleness for number in pair))
