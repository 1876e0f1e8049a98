"""Makes the object of this room; `app` calls it, and nothing else does."""

from __future__ import annotations

from redis.asyncio import Redis

from rollstream.schemas import Keys

from ..checkpoints.supply import CheckpointSupply
from ..config import WorkerSettings
from ..engine import Engine
from .receiver import RoundReceiver


def make_rounds(
    *, settings: WorkerSettings, redis: Redis, keys: Keys, engine: Engine, checkpoints: CheckpointSupply
) -> RoundReceiver | None:
    """None without `--weight-transfer`."""
    if settings.weight_transfer is None:
        return None
    return RoundReceiver(
        redis=redis,
        keys=keys,
        consumer=settings.consumer,
        backend=settings.weight_transfer,
        engine=engine,
        checkpoints=checkpoints,
    )
