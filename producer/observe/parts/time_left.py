"""How long a batch still takes, from how fast its groups ended."""

from __future__ import annotations

from collections import deque

_WINDOW_S = 60.0
_FEWEST = 8
"""So many changes are kept however old they are: groups may take minutes each."""
_APART_S = 1.0
_SOONEST_S = 2.0
"""A shorter look says nothing about speed."""


class Progress:
    """What one reader saw of one batch. Times are by one clock, in seconds."""

    def __init__(self, *, now: float, done: int) -> None:
        self._seen = deque([(now, done)])
        """When the count of groups that are done was seen to change, and to what."""

    def note(self, now: float, done: int) -> None:
        """Take another look at the count."""
        last, before = self._seen[-1]
        if now < last or done < before:  # the clock was set back, or it is another batch of this name
            self._seen = deque([(now, done)])
            return
        if done > before and now - last >= _APART_S:
            self._seen.append((now, done))
        while len(self._seen) > _FEWEST and now - self._seen[0][0] > _WINDOW_S:
            self._seen.popleft()

    def left_s(self, now: float, done: int, groups: int) -> float | None:
        """Seconds until all groups are done at the speed of the last minute; None if none was seen to end."""
        if done >= groups:
            return 0.0
        since, before = self._seen[0]
        ended, seconds = done - before, now - since
        return round((groups - done) * seconds / ended, 1) if ended > 0 and seconds >= _SOONEST_S else None
