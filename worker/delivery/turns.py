"""Jobs that wait for places take turns: who gets the next one, and what a big job counts for. Pure.

A place is what one group takes of the engine and of memory. A job never gets more places than its neighbours because it
is larger, longer or came first: the next place goes to the job that has the fewest.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a group, or several, takes of a worker."""

    groups: int = 0
    sequences: int = 0
    """What the engine runs at once."""
    nbytes: int = 0
    """Bytes of memory, until the answers are in Redis."""
    tokens: int = 0
    """Tokens that may be generated at most."""

    def __add__(self, other: Load) -> Load:
        return Load(
            groups=self.groups + other.groups,
            sequences=self.sequences + other.sequences,
            nbytes=self.nbytes + other.nbytes,
            tokens=self.tokens + other.tokens,
        )

    def __sub__(self, other: Load) -> Load:
        return Load(
            groups=self.groups - other.groups,
            sequences=self.sequences - other.sequences,
            nbytes=self.nbytes - other.nbytes,
            tokens=self.tokens - other.tokens,
        )

    def __rmul__(self, times: int) -> Load:
        return Load(
            groups=times * self.groups,
            sequences=times * self.sequences,
            nbytes=times * self.nbytes,
            tokens=times * self.tokens,
        )

    def share_of(self, limits: Load) -> float:
        """The part of a worker that this takes: of its sequences or of its bytes, whichever is more."""
        return max(self.sequences / limits.sequences, self.nbytes / limits.nbytes)


NOTHING = Load()


@dataclass(eq=False, slots=True, kw_only=True)
class Claim:
    """What one job has of the worker, and what it still wants.

    `Admission` alone changes it: when the job is taken from Redis, opened, given a place, answered in part and let go.
    """

    payload: int
    """Bytes of the entry, in memory until the job is let go."""
    turn: int = 0
    """Which of all places it got last; 0 before the first one: the lower, the longer it has waited."""
    group: Load = NOTHING
    """What each of its groups takes."""
    waiting: int = 0
    """Groups that have no place."""
    unused: int = 0
    """Places that it was given and has not used yet."""
    held: Load = NOTHING
    """The places that it has, used or not."""
    given: float = 0.0
    """How many workers full of places it was given so far; a group that fills a worker counts as one."""

    @property
    def wanted(self) -> int:
        """Sequences that wait; their bytes are not there yet."""
        return self.waiting * self.group.sequences


def next_turn(waiting: Collection[Claim], limits: Load) -> Claim:
    """Who gets the next place: the job that would have the fewest with it, then the one that waited longest.

    A group wider than an equal share counts as that share. So it waits until its neighbours have theirs, and no longer.
    """
    share = 1 / len(waiting)
    return min(
        waiting,
        key=lambda claim: (claim.held.share_of(limits) + min(share, claim.group.share_of(limits)), claim.turn),
    )


def is_big(claim: Claim, limits: Load, big: int) -> bool:
    """Whether others are read beside this job before its end, as beside `big` jobs that are big already.

    Its waiting groups would fill the worker, and it was given as many places as the worker has; each further job twice
    as many as the one before. So neighbours need not wait for its end, and a worker takes few jobs away from others.
    """
    return claim.wanted > limits.sequences and claim.given >= 2**big


def spared(big: Collection[Claim], limits: Load) -> Load:
    """What big jobs have and want beyond an equal share, one share being left for jobs that are not read yet."""
    shares = len(big) + 1
    sequences, nbytes = limits.sequences // shares, limits.nbytes // shares
    return Load(
        sequences=sum(max(0, claim.held.sequences + claim.wanted - sequences) for claim in big),
        nbytes=sum(max(0, claim.held.nbytes - nbytes) for claim in big),
    )
