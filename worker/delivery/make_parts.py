"""Makes `Parts` from a worker's settings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from redis.asyncio import Redis

from rollstream.schemas import Keys
from rollstream.schemas.wire.fields import VersionSpan

from ..config import WorkerSettings
from ..engine import Engine
from ..measure.measures import Measures
from .parts import Parts


def make_parts(
    *,
    settings: WorkerSettings,
    redis: Redis,
    keys: Keys,
    engine: Engine,
    measures: Measures,
    check_proven: Callable[[Iterable[Sequence[VersionSpan]]], None],
) -> Parts:
    """The parts of the jobs of one worker; its engine need not have started."""
    return Parts(
        redis=redis,
        keys=keys,
        measures=measures,
        check_proven=check_proven,
        vocab_size=lambda: engine.info.vocab_size,
        most_bytes=settings.partials_bytes,
        most_policy_bytes=settings.partials_policy_bytes,
    )
