"""How many tokens a second a worker answered of late."""

from __future__ import annotations

WINDOW_S = 30
"""Long enough that a group's end makes no peak, short enough that a worker that stands still shows it."""


class Throughput:
    """Tokens by the second in which their group was answered; `now` is always monotonic seconds.

    Used by the event loop alone: `per_s` forgets what is older than the window.
    """

    def __init__(self) -> None:
        self._tokens: dict[int, int] = {}

    def add(self, now: float, tokens: int) -> None:
        """Count the tokens of a group that was answered at `now`."""
        second = int(now)
        self._tokens[second] = self._tokens.get(second, 0) + tokens

    def per_s(self, now: float) -> float:
        """Tokens per second in the last `WINDOW_S` whole seconds. A worker that has just begun is slow by this."""
        this = int(now)
        self._tokens = {second: n for second, n in self._tokens.items() if second >= this - WINDOW_S}
        return sum(n for second, n in self._tokens.items() if second < this) / WINDOW_S
