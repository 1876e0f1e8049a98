"""The unit of admission is sequences: a job is read when the engine has room, so the backlog stays in Redis."""

from __future__ import annotations

import asyncio


class Admission:
    """Counts the sequences of admitted groups. One job may overshoot the limit; none is read while it is reached."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.sequences = 0
        self.groups = 0
        self.closed = False
        self._wake = asyncio.Event()
        self._wake.set()

    def __repr__(self) -> str:
        closed = ", closed" if self.closed else ""
        return f"<Admission {self.sequences}/{self.limit} sequences, {self.groups} groups{closed}>"

    @property
    def has_room(self) -> bool:
        """Fewer sequences than the limit, and not closed."""
        return self.sequences < self.limit and not self.closed

    async def room(self) -> bool:
        """True once fewer sequences than the limit are admitted; False once admission is closed."""
        await self._wake.wait()
        return not self.closed

    def close(self) -> None:
        """Nothing more is read; what is admitted goes on."""
        self.closed = True
        self._wake.set()

    def admit(self, groups: int, sequences: int) -> None:
        """Count groups that were taken from Redis."""
        self._change(groups, sequences)

    def release(self, groups: int, sequences: int) -> None:
        """Count groups that were published, fenced or cancelled."""
        self._change(-groups, -sequences)

    def _change(self, groups: int, sequences: int) -> None:
        self.groups += groups
        self.sequences += sequences
        if self.sequences < self.limit or self.closed:
            self._wake.set()
        else:
            self._wake.clear()
