"""A job is read when there is room for its sequences and bytes, and no reason to pause: the backlog stays in Redis."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

OF_LATE = 32
"""Jobs whose size tells what to expect of the next."""


@dataclass(frozen=True, slots=True)
class Load:
    """What an admitted job, or a part of one, takes of a worker."""

    groups: int = 0
    sequences: int = 0
    """Of the engine's places."""
    nbytes: int = 0
    """Of memory, until its answers are in Redis."""

    def __add__(self, other: Load) -> Load:
        return Load(self.groups + other.groups, self.sequences + other.sequences, self.nbytes + other.nbytes)

    def __sub__(self, other: Load) -> Load:
        return Load(self.groups - other.groups, self.sequences - other.sequences, self.nbytes - other.nbytes)

    def __rmul__(self, times: int) -> Load:
        return Load(times * self.groups, times * self.sequences, times * self.nbytes)


class Admission:
    """Adds up the load of admitted groups. One job may overshoot a limit; none is read while one is reached.

    An answer counts until it was published, so answers that wait for Redis are bounded too. Any number of roles may
    pause admission, each for a reason of its own; it goes on when the last has resumed it.
    """

    def __init__(self, limit: int, limit_bytes: int = 2**28) -> None:
        self.limit = limit
        self.limit_bytes = limit_bytes
        self.load = Load()
        self.closed = False
        self.turn = asyncio.Lock()
        """Held by who waits for room until he has used it, so that each of several has his turn."""
        self._of_late: deque[Load] = deque(maxlen=OF_LATE)
        self._reasons: set[str] = set()
        self._one_more = False
        self._wake = asyncio.Event()
        self._wake.set()

    def __repr__(self) -> str:
        paused = f", paused: {', '.join(sorted(self._reasons))}" if self._reasons else ""
        closed = ", closed" if self.closed else ""
        return (
            f"<Admission {self.load.sequences}/{self.limit} sequences, {self.load.nbytes}/{self.limit_bytes} bytes, "
            f"{self.load.groups} groups{paused}{closed}>"
        )

    @property
    def paused(self) -> frozenset[str]:
        """Why nothing is read, room or not; empty while it is."""
        return frozenset(self._reasons)

    @property
    def is_full(self) -> bool:
        """A limit is reached."""
        return self.load.sequences >= self.limit or self.load.nbytes >= self.limit_bytes

    @property
    def has_room(self) -> bool:
        """Below both limits, not paused (but for one job that was let in) and not closed."""
        return not (self.is_full or self.closed) and (not self._reasons or self._one_more)

    def fits(self, most: int) -> int:
        """How many jobs may be read at once, 1 to `most`: up to a limit, if each is as large as the largest of late."""
        if most <= 1 or self._reasons or not self._of_late:
            return 1
        sequences = max(1, *(load.sequences for load in self._of_late))
        nbytes = max(1, *(load.nbytes for load in self._of_late))
        left = self.limit - self.load.sequences, self.limit_bytes - self.load.nbytes
        return max(1, min(most, -(-left[0] // sequences), -(-left[1] // nbytes)))

    async def room(self) -> bool:
        """True once there is room; False once admission is closed, paused or not."""
        while not (self.has_room or self.closed):
            await self._wake.wait()
        return not self.closed

    def pause(self, reason: str) -> None:
        """Nothing more is read until `resume(reason)`; what is admitted goes on. A second time changes nothing."""
        self._reasons.add(reason)
        self._one_more = False
        self._update()

    def let_one_in(self, although: str) -> None:
        """Read one job, if nothing else is admitted and `although` is the only reason to pause."""
        self._one_more = self._reasons == {although} and not self.load.groups
        self._update()

    def resume(self, reason: str) -> None:
        """This reason is over, if it was one."""
        self._reasons.discard(reason)
        self._update()

    def close(self) -> None:
        """Nothing more is read, ever; what is admitted goes on."""
        self.closed = True
        self._update()

    def admit(self, load: Load) -> None:
        """Count a job that was taken from Redis."""
        self._one_more = False
        self._of_late.append(load)
        self.load += load
        self._update()

    def release(self, load: Load) -> None:
        """Count what was published, fenced or cancelled."""
        self.load -= load
        self._update()

    def _update(self) -> None:
        if self.has_room or self.closed:
            self._wake.set()
        else:
            self._wake.clear()
