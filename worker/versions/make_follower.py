"""Makes the objects of this room; `app` calls it, and nothing else does."""

from __future__ import annotations

from collections.abc import Callable

from redis.asyncio import Redis

from rollstream.schemas import Keys

from ..adapters.supply import AdapterSupply
from ..checkpoints.supply import CheckpointSupply
from ..engine import Engine, SwapMode
from ..measure.measures import Measures
from ..rounds.receiver import RoundReceiver
from .announcements import Announcements
from .follower import VersionFollower
from .loader import VersionLoader
from .proofs import Proofs


def make_follower(  # noqa: PLR0913 - what the room needs of others, given by `app`
    *,
    redis: Redis,
    keys: Keys,
    engine: Engine,
    adapters: AdapterSupply,
    checkpoints: CheckpointSupply,
    proofs: Proofs,
    swap: SwapMode,
    changed: Callable[[], None],
    measures: Measures,
    rounds: RoundReceiver | None = None,
) -> VersionFollower:
    """A follower of the policy's versions; `rounds`: for a worker that takes part in them."""
    loader = VersionLoader(
        engine=engine,
        adapters=adapters,
        checkpoints=checkpoints,
        rounds=rounds,
        proofs=proofs,
        swap=swap,
        measures=measures,
    )
    return VersionFollower(announcements=Announcements(redis=redis, keys=keys), loader=loader, changed=changed)
