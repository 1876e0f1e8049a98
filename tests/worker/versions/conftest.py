"""A follower, its engine and what it remembers of proofs."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis.asyncio import Redis

from rollstream.worker.versions.follower import VersionFollower
from rollstream.worker.versions.proofs import Proofs
from tests.support.faults import Queue
from tests.support.weights.following import Recording
from tests.support.weights.versions import follower_of


@pytest.fixture
def engine() -> Recording:
    return Recording()


@pytest.fixture
def proofs() -> Proofs:
    return Proofs()


@pytest.fixture
def followed(redis: Redis, queue: Queue, engine: Recording, steps: Path, proofs: Proofs) -> VersionFollower:
    return follower_of(redis, queue, engine, steps, proofs)
