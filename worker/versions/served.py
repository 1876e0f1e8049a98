"""The version that is served, and the one that could be served at once."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field

from ..checkpoints.supply import Prepared
from ..requests import Adapter
from ..rounds.receiver import RoundReceiver
from ..weights.checkpoint import Stamp
from .announced import BOOTED, Announced
from .proof import Proof


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The version that samples an admitted job without an adapter of its own."""

    announced: Announced = BOOTED
    adapter: Adapter | None = None
    """The adapter, if the version was published as one; None for a checkpoint, whose version the engine knows."""

    @property
    def version(self) -> int:
        """The version's number; 0 is the boot model."""
        return self.announced.version


@dataclass(frozen=True, slots=True, kw_only=True)
class InRound:
    """Weights that come with the swap itself, for a worker that takes part in rounds."""

    rounds: RoundReceiver


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ready:
    """A version whose weights are here and verified: to serve it takes a swap, or nothing for an adapter.

    Where a trainer sends them in a round there is nothing to prepare.
    """

    announced: Announced
    weights: Prepared | Adapter | InRound
    stamp: Stamp
    """Tells whether its files have changed since; taken before they were read."""
    seconds: float
    """How long it took to bring and verify them."""
    proof: Proof | None = None
    """That of an adapter, which is scored while it serves nothing; a checkpoint is proven in the swap."""
    using: ExitStack = field(default_factory=ExitStack)
    """Keeps an adapter's files and weights until it is closed."""
