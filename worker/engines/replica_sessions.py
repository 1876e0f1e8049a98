"""Which of several engines has a session's prefix in its cache. A hint: an engine without a seat is passed over."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

MOST_SESSIONS = 4096
"""Sessions that are remembered: those that had a turn last."""


class ReplicaSessions:
    """Remembers where sessions had their last turns."""

    def __init__(self) -> None:
        self._places: OrderedDict[str, int] = OrderedDict()

    def place(self, session: str | None, running: Sequence[int], most: Sequence[int]) -> int:
        """The number of the engine for a request of this session, by the sequences that each runs and may run at most.

        Without a session, or where its engine is full and another is not, the one that runs the fewest.
        """
        fewest = min(range(len(running)), key=running.__getitem__)
        if session is None:
            return fewest
        place = self._places.pop(session, fewest)
        if running[place] >= most[place] and running[fewest] < most[fewest]:
            place = fewest
        self._places[session] = place
        if len(self._places) > MOST_SESSIONS:
            self._places.popitem(last=False)
        return place
