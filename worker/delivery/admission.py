"""Reads jobs while there is room, and lets groups into the engine as places get free: a backlog stays in Redis."""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Sequence

from rollstream.schemas.pause_reason import PauseReason

from .turns import Claim, Load, Party, is_big, next_turn, spared

__all__ = ["Admission", "Claim", "Load"]

OF_LATE = 32
"""How many of the latest jobs' sizes tell what to expect of the next."""


class Admission:
    """Counts what this worker's jobs take, and decides when to read another job and which group enters next.

    A job's payload counts from when it was read until it is let go, however the job ends. Its groups count one by one,
    from when they get a place until their answers are published, so answers that wait for Redis are bounded too. One
    group may overshoot a limit; no group gets a place while a limit is reached. Any number of roles may pause reading,
    each for its own reason; reading goes on once all have resumed it.

    It changes only in the worker's event loop, and never across an await: the consumer takes and lets go of claims, a
    running job opens its claim, asks for places and leaves them, and roles pause and resume it. After each change it
    wakes the tasks that may go on.
    """

    def __init__(self, *, limit: int, limit_bytes: int = 2**28, places: int | None = None) -> None:
        """At `limit` sequences no more jobs are read; `places` sequences may run at once; None: `limit`."""
        self.limits = Load(sequences=limit, nbytes=limit_bytes)
        self.places = Load(sequences=places or limit, nbytes=limit_bytes)
        self.bound = self.places.sequences
        """How many of the places are given out: fewer while the engine's memory is full."""
        self.ended = 0
        """Sequences that have run to their ends and given their places back since the start."""
        self.closed = False
        self.turn = asyncio.Lock()
        """Held by each reader of jobs while it waits for room and uses it, so that the readers take turns."""
        self._jobs: dict[Claim, Load] = {}
        """The jobs here, with their sizes as far as they are known."""
        self._payloads = 0
        """Bytes of the payloads of all jobs."""
        self._held = Load()
        """What the groups with a place take, over all jobs."""
        self._waiting = 0
        """Groups without a place."""
        self._wanted = 0
        """Sequences of the groups without a place."""
        self._queue: dict[Claim, None] = {}
        """Jobs whose groups are ready for a place."""
        self._parties: dict[str, Party] = {}
        """The jobs here that say how long their groups become, by their batches."""
        self._big: dict[Claim, None] = {}
        """Big jobs: their waiting groups count for no more than an equal share."""
        self._wakers: dict[Claim, asyncio.Future[None]] = {}
        self._turns = itertools.count(1)
        self._of_late: deque[Load] = deque(maxlen=OF_LATE)
        self.on_pause: Callable[[], None] = _nothing
        """Called with each new reason to pause: a read that already waits would still take the next job."""
        self._reasons: set[PauseReason] = set()
        self._one_more = False
        self._wake = asyncio.Event()
        self._wake.set()

    def __repr__(self) -> str:
        paused = f", paused: {', '.join(sorted(self._reasons))}" if self._reasons else ""
        closed = ", closed" if self.closed else ""
        return (
            f"<Admission {self.load.sequences}/{self.limits.sequences} sequences, "
            f"{self.load.nbytes}/{self.limits.nbytes} bytes, {self.load.groups} groups, {self._waiting} waiting, "
            f"{len(self._jobs)} jobs{paused}{closed}>"
        )

    @property
    def load(self) -> Load:
        """What the groups with a place take, and the payloads of all jobs."""
        return self._held + Load(nbytes=self._payloads)

    @property
    def paused(self) -> frozenset[PauseReason]:
        """Why no jobs are read even if there is room; empty while they are read."""
        return frozenset(self._reasons)

    @property
    def waiting(self) -> int:
        """How many groups of the jobs here have no place yet."""
        return self._waiting

    @property
    def is_full(self) -> bool:
        """Whether a limit is reached, so that no group gets a place. Payloads leave a quarter of the bytes to answers:
        otherwise no job could end."""
        places = self.places
        nbytes = max(places.nbytes - self._payloads, places.nbytes // 4, 1)
        return self._held.sequences >= self.bound or self._held.nbytes >= nbytes

    @property
    def is_supplied(self) -> bool:
        """Whether the jobs here have and want as much as a limit: another is not needed, or does not fit."""
        sequences, nbytes = self._left()
        return sequences <= 0 or nbytes <= 0

    @property
    def has_room(self) -> bool:
        """Whether a job may be read: not supplied, not closed, and not paused or one job was let in."""
        return not (self.is_supplied or self.closed) and (not self._reasons or self._one_more)

    def fits(self, most: int) -> int:
        """How many jobs may be read at once, 1 to `most`: as many as fit if all are as large as the largest of late."""
        if most <= 1 or self._reasons or not self._of_late:
            return 1
        sequences = max(1, *(size.sequences for size in self._of_late))
        nbytes = max(1, *(size.nbytes for size in self._of_late))
        left = self._left()
        return max(1, min(most, -(-left[0] // sequences), -(-left[1] // nbytes)))

    async def room(self) -> bool:
        """Wait: True once there is room, False once admission is closed."""
        while not (self.has_room or self.closed):
            await self._wake.wait()
        return not self.closed

    def set_paused(self, reason: PauseReason, *, on: bool) -> None:
        """No job is read while any reason is on; the jobs here go on. Repeating it changes nothing."""
        is_new = on and reason not in self._reasons
        (self._reasons.add if on else self._reasons.discard)(reason)
        self._one_more = self._one_more and not on
        self._update()
        if is_new:
            self.on_pause()

    def let_one_in(self, although: PauseReason) -> None:
        """Read one job, if no other is at hand and `although` is the only reason to pause."""
        self._one_more = self._reasons == {although} and not self._jobs
        self._update()

    def hold_to(self, bound: int) -> None:
        """Give out so many places from now on, and read fewer jobs too. Groups that have one keep it."""
        self.bound = bound
        self._give_places()

    def close(self) -> None:
        """Read no job from now on; the jobs here go on."""
        self.closed = True
        self._update()

    def hold(self, payload: int) -> Claim:
        """Count a job that was taken from Redis, with a payload of so many bytes, until `let_go`."""
        self._one_more = False
        claim = Claim(payload=payload)
        self._jobs[claim] = Load(nbytes=payload)
        self._payloads += payload
        self._update()
        return claim

    def expect(self, claim: Claim, groups: int, each: Load) -> None:
        """Count the job's waiting groups, which take `each`. Call it again when the numbers are known better."""
        self._withdraw(claim)
        self._wait(claim, groups, each)
        if not self._jobs[claim].groups:
            self._jobs[claim] = size = Load(
                groups=groups, sequences=groups * each.sequences, nbytes=claim.payload, tokens=groups * each.tokens
            )
            self._of_late.append(size)
        self._give_places()

    def queue(self, claim: Claim, batch_id: str = "", lengths: Sequence[int] = ()) -> None:
        """The job's waiting groups are ready: they get places in turn with those of other jobs.

        `lengths`: how long each of them becomes, the longest first; empty if nobody says. Then the longest groups of
        all jobs of this batch get places first.
        """
        if lengths:
            self._join(claim, batch_id, lengths)
        if claim.waiting:
            self._queue[claim] = None
        self._give_places()

    async def place(self, claim: Claim) -> None:
        """Wait until the next group of a queued job has a place; give the place back with `leave`."""
        while not claim.unused:
            waker = self._wakers[claim] = asyncio.get_running_loop().create_future()
            try:
                await waker
            finally:
                del self._wakers[claim]
        claim.unused -= 1

    def enter(self, claim: Claim, load: Load) -> None:
        """Count a group that needs no place because its answer is an error, until `leave`; it takes `load`."""
        self._take(claim, load)
        self._update()

    def leave(self, claim: Claim, load: Load, *, ran: bool = True) -> None:
        """Count a group no more, or a part of its load that it does not need. `ran`: in the engine, to its end."""
        self.ended += load.sequences if ran else 0
        self._drop(claim, load)
        self._give_places()

    def vacate(self, claim: Claim) -> None:
        """None of the job's groups runs or waits any more. The job itself may end only once Redis is back."""
        self._withdraw(claim)
        self._wait(claim, 0, claim.group)
        if claim.held.groups:
            self._drop(claim, claim.held)
        self._give_places()

    def let_go(self, claim: Claim) -> None:
        """The job is done here: answered, given back, parked, buried or left to its next owner."""
        self.vacate(claim)
        self._part(claim)
        self._payloads -= claim.payload
        del self._jobs[claim]
        self._give_places()

    def _wait(self, claim: Claim, groups: int, each: Load) -> None:
        self._waiting += groups - claim.waiting
        self._wanted += groups * each.sequences - claim.wanted
        claim.waiting, claim.group = groups, each
        if not groups:
            self._big.pop(claim, None)

    def _withdraw(self, claim: Claim) -> None:
        """The job's groups are not ready any more; places that it was given and did not use go to others."""
        self._queue.pop(claim, None)
        if claim.unused:
            self._drop(claim, claim.unused * claim.group)
            self._wait(claim, claim.waiting + claim.unused, claim.group)
            claim.unused = 0

    def _give_places(self) -> None:
        while self._queue and not self.is_full:
            claim = next_turn(self._queue, self.places) if len(self._queue) > 1 else next(iter(self._queue))
            claim.unused += 1
            claim.turn = next(self._turns)
            self._take(claim, claim.group)
            if not claim.waiting:
                del self._queue[claim]
            waker = self._wakers.get(claim)
            if waker is not None and not waker.done():
                waker.set_result(None)
        self._update()

    def _take(self, claim: Claim, load: Load) -> None:
        claim.held += load
        self._held += load
        if claim.party is not None:
            claim.party.held += load
        claim.given += min(1.0, load.share_of(self.places))
        self._wait(claim, claim.waiting - 1, claim.group)
        if is_big(claim, self.places, len(self._big)):
            self._big[claim] = None

    def _drop(self, claim: Claim, load: Load) -> None:
        claim.held -= load
        self._held -= load
        if claim.party is not None:
            claim.party.held -= load

    def _join(self, claim: Claim, batch_id: str, lengths: Sequence[int]) -> None:
        self._part(claim)
        party = self._parties.setdefault(batch_id, Party(batch_id=batch_id))
        party.jobs += 1
        party.held += claim.held
        claim.party, claim.lengths = party, lengths

    def _part(self, claim: Claim) -> None:
        """The job is of its batch's party no more; the last one ends it."""
        if (party := claim.party) is None:
            return
        claim.party = None
        party.jobs -= 1
        party.held -= claim.held
        if not party.jobs:
            del self._parties[party.batch_id]

    def _left(self) -> tuple[int, int]:
        """Sequences and bytes that the jobs here leave of the limits; big jobs count up to an equal share."""
        sequences = min(self.limits.sequences, self.bound * 5 // 4 or 1) - self._held.sequences - self._wanted
        nbytes = self.limits.nbytes - self._held.nbytes - self._payloads
        if self._big:
            beyond = spared(self._big, self.limits)
            sequences, nbytes = sequences + beyond.sequences, nbytes + beyond.nbytes
        return sequences, nbytes

    def _update(self) -> None:
        if self.has_room or self.closed:
            self._wake.set()
        else:
            self._wake.clear()


def _nothing() -> None:
    """Default of `on_pause`: no read waits for a job."""
