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
from ..weights.contents import Contents
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
    contents: Contents | None = None,
) -> VersionFollower:
    """A follower of the policy's versions; `rounds`: for a worker that takes part in them; `contents`: told of them."""
    contents, announcements = contents or Contents(), Announcements(redis=redis, keys=keys)
    contents.announced = lambda version: announcements.content_of(version, contents)
    loader = VersionLoader(
        engine=engine,
        adapters=adapters,
        checkpoints=checkpoints,
        rounds=rounds,
        proofs=proofs,
        contents=contents,
        swap=swap,
        measures=measures,
    )
    return VersionFollower(announcements=announcements, loader=loader, changed=changed)
