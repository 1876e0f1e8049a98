"""Jobs that wait for places take turns: which job gets the next place, and how much a big job counts. Pure.

A place is what one group takes of the engine and of memory. No job gets more places than its neighbours for being
larger or longer, or for coming first: the next place goes to the job that has the fewest. The jobs of a batch that says
how long its completions become are one party: each counts as if their places were shared out evenly, and whichever of
them has the turn, the longest group of all of them gets the place. So batches wait for each other no longer than
without that, and only groups of one batch overtake each other.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What one or more groups take of a worker."""

    groups: int = 0
    sequences: int = 0
    """Sequences that the engine runs at once."""
    nbytes: int = 0
    """Bytes of memory, until the answers are in Redis."""
    tokens: int = 0
    """Most tokens that may be generated."""

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
        """The part of a worker that this takes: of its sequences or its bytes, the larger of the two."""
        return max(self.sequences / limits.sequences, self.nbytes / limits.nbytes)


NOTHING = Load()


@dataclass(eq=False, slots=True, kw_only=True)
class Party:
    """The jobs of one batch that say how long their groups become. Only `Admission` changes it, as it does claims."""

    batch_id: str
    jobs: int = 0
    """Those that are here and have said so."""
    held: Load = NOTHING
    """What their places take together."""

    def share_of(self, limits: Load) -> float:
        """What each of them would take if all took the same."""
        return self.held.share_of(limits) / self.jobs


@dataclass(eq=False, slots=True, kw_only=True)
class Claim:
    """What one job has of the worker, and what it still wants.

    Only `Admission` changes it: when the job is taken from Redis, opened, given a place, answered in part and let go.
    """

    payload: int
    """Bytes of the entry, in memory until the job is let go."""
    turn: int = 0
    """Number, among all places, of the one it got last; 0 before its first. The lower, the longer it has waited."""
    group: Load = NOTHING
    """What each of its groups takes."""
    waiting: int = 0
    """Groups without a place."""
    unused: int = 0
    """Places that it got and has not used yet."""
    held: Load = NOTHING
    """What its places take, used or not."""
    given: float = 0.0
    """All places that it got so far, in workers: places that fill the whole worker count as 1."""
    party: Party | None = None
    """The jobs of its batch; None if it does not say how long its groups become."""
    lengths: Sequence[int] = ()
    """How long the groups become that it has, the longest first, as they get their places."""

    @property
    def longest(self) -> int:
        """How long the next of its groups becomes."""
        return self.lengths[-self.waiting] if self.waiting else 0

    @property
    def wanted(self) -> int:
        """Sequences of its waiting groups, which take no bytes yet."""
        return self.waiting * self.group.sequences


def next_turn(waiting: Collection[Claim], limits: Load) -> Claim:
    """The job that gets the next place: the one that would have the fewest with it, then the one that waited longest.

    A group larger than an equal share counts as that share: it waits until its neighbours have theirs, and no longer.
    """
    share = 1 / len(waiting)
    first = min(
        waiting,
        key=lambda claim: (_taken(claim, limits) + min(share, claim.group.share_of(limits)), claim.turn),
    )
    return first if first.party is None else _longest_of(first.party, waiting, limits)


def _taken(claim: Claim, limits: Load) -> float:
    return (claim.held if claim.party is None else claim.party).share_of(limits)


def _longest_of(party: Party, waiting: Collection[Claim], limits: Load) -> Claim:
    """The job of this batch with the longest group; of several the one with the fewest places, then the oldest turn."""
    return min(
        (claim for claim in waiting if claim.party is party),
        key=lambda claim: (-claim.longest, claim.held.share_of(limits), claim.turn),
    )


def is_big(claim: Claim, limits: Load, big: int) -> bool:
    """Whether this job is big, so that other jobs are read before it ends; `big` jobs are big already.

    A big job's waiting groups would fill the worker, and it got as many places as the worker has; each further big job
    needs twice as many as the one before. So neighbours need not wait for its end, and few jobs are taken from others.
    """
    return claim.wanted > limits.sequences and claim.given >= 2**big


def spared(big: Collection[Claim], limits: Load) -> Load:
    """What big jobs have and want beyond an equal share; one share is left for jobs that are not read yet."""
    shares = len(big) + 1
    sequences, nbytes = limits.sequences // shares, limits.nbytes // shares
    return Load(
        sequences=sum(max(0, claim.held.sequences + claim.wanted - sequences) for claim in big),
        nbytes=sum(max(0, claim.held.nbytes - nbytes) for claim in big),
    )
