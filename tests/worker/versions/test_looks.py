"""How a worker reads the versions stream: a look counts even if its caller gives up, and a fault is told once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from rollstream import AsyncClient
from rollstream.schemas import Keys
from rollstream.worker.adapters.folder import AdapterFolder
from rollstream.worker.adapters.supply import AdapterSupply
from rollstream.worker.checkpoints.supply import CheckpointSupply
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engine import Prove, SwapMode
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.measure.measures import Measures
from rollstream.worker.redis_io.connections import connect
from rollstream.worker.versions.follower import VersionFollower
from rollstream.worker.versions.make_follower import make_follower
from rollstream.worker.versions.proofs import Proofs
from rollstream.worker.weights import checkpoint
from rollstream.worker.weights.checkpoint import Content
from tests.support.faults import Link, Queue
from tests.support.weights.versions import announce, write_steps


def follower(redis: Redis, policy: str, steps: Path, engine: StubEngine, changes: list[int]) -> VersionFollower:
    supply = AdapterSupply(engine=engine, folder=AdapterFolder(root=None, max_rank=16, model=None), store=None)
    return make_follower(
        redis=redis,
        keys=Keys(policy),
        engine=engine,
        adapters=supply,
        checkpoints=CheckpointSupply(folder=steps),
        proofs=Proofs(),
        swap="keep",
        changed=lambda: changes.append(1),
        measures=Measures(),
    )


def stub_engine() -> StubEngine:
    return StubEngine(WorkerSettings(policy="p", engine="stub"))


@pytest.fixture
async def far(link: Link) -> AsyncIterator[Redis]:
    """Redis behind the link."""
    redis = connect(link.url)
    redis.connection_pool.connection_kwargs["socket_timeout"] = 1.0  # a command that goes unanswered is waited out
    yield redis
    await redis.aclose()


async def test_a_look_that_finds_nothing_new_changes_nothing(
    redis: Redis, redis_url: str, policy: str, tmp_path: Path
) -> None:
    changes: list[int] = []
    followed = follower(redis, policy, write_steps(tmp_path, 1), stub_engine(), changes)
    async with AsyncClient(redis_url, policy=policy) as trainer:
        await trainer.publish_policy(1, checkpoint=tmp_path / "step-1")
    await followed.begin()
    assert (followed.serving.version, bool(changes)) == (1, True)

    changes.clear()
    for _ in range(5):
        await followed.look()

    assert changes == []


async def test_a_look_that_was_given_up_counts_for_nobody(
    far: Redis, link: Link, policy: str, queue: Queue, tmp_path: Path
) -> None:
    followed = follower(far, policy, tmp_path, stub_engine(), [])
    await followed.look()
    link.freeze()
    first, second, third = (asyncio.create_task(followed.look()) for _ in range(3))
    await asyncio.sleep(0)
    announce(queue, 1, "step-1")
    first.cancel()
    await asyncio.wait([first])
    second.cancel()
    await asyncio.wait([second])
    link.thaw()

    await third

    assert followed.newest == 1


@pytest.mark.keys_by_hand
@pytest.mark.parametrize("name", ["versions", "activations"])
async def test_a_key_that_is_no_stream_is_warned_of_once_and_reported_until_it_is_gone(
    redis: Redis, policy: str, queue: Queue, tmp_path: Path, name: str
) -> None:
    followed = follower(redis, policy, write_steps(tmp_path, 1), stub_engine(), [])
    announce(queue, 1, "step-1", checkpoint.digest(tmp_path / "step-1"))
    await followed.begin()
    key = getattr(queue.keys, name)()
    await redis.delete(key)
    await redis.set(key, "no stream")

    with capture_logs() as logs:
        for _ in range(3):
            await followed.look()

    assert f"{key} is no stream" in followed.problem
    assert [one["log_level"] for one in logs if "problem" in one] == ["warning"]
    assert (followed.serving.version, followed.error) == (1, "")

    await redis.delete(key)
    await followed.look()

    assert followed.problem == ""


class Overtaken(StubEngine):
    """While it loads a version, the trainer publishes twenty more, and the worker hears of them."""

    def __init__(self, queue: Queue) -> None:
        super().__init__(WorkerSettings(policy="p", engine="stub"))
        self._queue = queue
        self.follower: VersionFollower | None = None

    async def load_checkpoint(
        self, version: int, path: Path, mode: SwapMode, content: Content | None = None, prove: Prove | None = None
    ) -> float:
        assert self.follower is not None
        paused_s = await super().load_checkpoint(version, path, mode, content, prove)
        for later in range(version + 1, version + 21):
            announce(self._queue, later, f"step-{later}")
        await self.follower.look()
        return paused_s


async def test_what_is_served_counts_however_many_versions_came_while_it_loaded(
    redis: Redis, redis_url: str, policy: str, queue: Queue, tmp_path: Path
) -> None:
    engine = Overtaken(queue)
    followed = engine.follower = follower(redis, policy, write_steps(tmp_path, 1), engine, [])
    async with AsyncClient(redis_url, policy=policy) as trainer:
        await trainer.publish_policy(1, checkpoint=tmp_path / "step-1")

    await followed.begin()

    assert (followed.serving.version, followed.newest, followed.adrift) == (1, 21, False)
