"""How long a version is waited for that cannot be brought, while a newer one could be. Pure."""

from __future__ import annotations

FIRST_S = 60.0
"""So long a newer version waits for one whose weights are on their way."""


class Patience:
    """Lasts twice as long after each time that it ended, so that versions which come faster than they can be brought
    do not overtake each other for ever. The follower alone asks it.
    """

    def __init__(self) -> None:
        self._lasts_s = FIRST_S
        self._since: float | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether a newer version waits."""
        return self._since is not None

    def ends(self, now: float, *, is_waiting: bool) -> bool:
        """Whether the newer version has waited long enough; `is_waiting`: whether there is one."""
        if not is_waiting:
            self._since = None
        elif self._since is None:
            self._since = now
        elif now - self._since >= self._lasts_s:
            self._since, self._lasts_s = None, 2 * self._lasts_s
            return True
        return False

    def restore(self) -> None:
        """A version is served."""
        self._lasts_s = FIRST_S
