"""The supply of adapters: local folders come before Redis, what leaves the disk leaves the engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from rollstream import AsyncClient, Client
from rollstream.producer.demo.tiny_model import write_adapter
from rollstream.schemas import ErrorCode, Keys
from rollstream.worker.adapters.folder import AdapterFolder
from rollstream.worker.adapters.store import AdapterStore
from rollstream.worker.adapters.supply import AdapterSupply
from rollstream.worker.cache_folder import CacheFolder
from rollstream.worker.checkpoints.supply import CheckpointSupply
from rollstream.worker.errors import DataError
from rollstream.worker.measure.measures import Measures
from rollstream.worker.requests import Adapter
from rollstream.worker.versions.make_follower import make_follower
from rollstream.worker.versions.proofs import Proofs
from tests.support.adapter_steps import SIZE, RecordingEngine, on_disk, put


@pytest.fixture
async def store(redis: Redis, policy: str, cache: CacheFolder) -> AsyncIterator[AdapterStore]:
    """Holds two adapters of `SIZE`."""
    store = AdapterStore(redis=redis, keys=Keys(policy), cache=cache, max_bytes=SIZE, cache_bytes=2 * SIZE + 100)
    yield store
    await store.close()


async def test_an_evicted_adapter_leaves_the_engine_and_comes_back_under_a_fresh_id(
    redis: Redis, policy: str, cache: CacheFolder, tiny_model: Path, tmp_path: Path, client: Client
) -> None:
    folder = write_adapter(tmp_path, "math@1", model=tiny_model, seed=1)
    size = sum(path.stat().st_size for path in folder.iterdir())
    for version in (1, 2, 3):
        client.publish_adapter("math", version, folder)
    engine, directory = RecordingEngine(), AdapterFolder(root=None, max_rank=16, model=tiny_model)
    store = AdapterStore(redis=redis, keys=Keys(policy), cache=cache, max_bytes=2**30, cache_bytes=2 * size)
    supply = AdapterSupply(engine=engine, folder=directory, store=store)

    ids = [(await supply.load(name)).int_id for name in ("math@1", "math@2", "math@1", "math@3", "math@2")]

    assert ids == [1, 2, 1, 3, 4]
    assert [adapter.name for adapter in engine.loaded] == ["math@3", "math@2"]
    assert on_disk(cache) == ["math@2", "math@3"]


class Leaving(RecordingEngine):
    """Unloads nothing until told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.told = asyncio.Event(), asyncio.Event()

    async def unload_adapter(self, adapter: Adapter) -> None:
        self.asked.set()
        await self.told.wait()
        await super().unload_adapter(adapter)


async def test_what_was_evicted_leaves_the_engine_although_the_job_that_evicted_it_was_cancelled(
    redis: Redis, policy: str, cache: CacheFolder, tiny_model: Path, tmp_path: Path, client: Client
) -> None:
    folder = write_adapter(tmp_path, "math@1", model=tiny_model, seed=1)
    size = sum(path.stat().st_size for path in folder.iterdir())
    for version in (1, 2):
        client.publish_adapter("math", version, folder)
    engine = Leaving()
    store = AdapterStore(redis=redis, keys=Keys(policy), cache=cache, max_bytes=2**30, cache_bytes=size)
    supply = AdapterSupply(engine=engine, folder=AdapterFolder(root=None, max_rank=16, model=tiny_model), store=store)
    await supply.load("math@1")
    evicting = asyncio.create_task(supply.load("math@2"))
    async with asyncio.timeout(30):
        await engine.asked.wait()  # it is on disk before that, while its fetch goes on
        evicting.cancel()
        await asyncio.wait([evicting])
    assert on_disk(cache) == ["math@2"]

    engine.told.set()
    await supply.load("math@2")

    assert [adapter.name for adapter in engine.loaded] == ["math@2"]


async def test_a_local_folder_comes_before_redis(
    redis: Redis, policy: str, store: AdapterStore, adapter_dir: Path, tiny_model: Path
) -> None:
    await put(redis, Keys(policy), "math@1")
    supply = AdapterSupply(
        engine=RecordingEngine(), folder=AdapterFolder(root=adapter_dir, max_rank=16, model=tiny_model), store=store
    )

    assert (await supply.load("math@1")).path == (adapter_dir / "math@1").resolve()
    with pytest.raises(DataError) as raised:
        await supply.load("math@1", "0" * 64)
    assert raised.value.code is ErrorCode.ADAPTER_REFUSED


async def test_a_policys_adapter_is_renewed_in_redis_while_it_is_served(
    redis: Redis,
    redis_url: str,
    policy: str,
    cache: CacheFolder,
    adapter_dir: Path,
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys, engine = Keys(policy), RecordingEngine()
    store = AdapterStore(redis=redis, keys=keys, cache=cache, max_bytes=2**30, cache_bytes=2**30)
    supply = AdapterSupply(engine=engine, folder=AdapterFolder(root=None, max_rank=16, model=tiny_model), store=store)
    async with AsyncClient(redis_url, policy=policy) as client:
        location = (await client.publish_policy(1, adapter=adapter_dir / "math@1")).location
    served = make_follower(
        redis=redis,
        keys=keys,
        engine=engine,
        adapters=supply,
        checkpoints=CheckpointSupply(folder=None),
        proofs=Proofs(),
        swap="keep",
        changed=lambda: None,
        measures=Measures(),
    )
    monkeypatch.setattr("rollstream.worker.adapters.store.ADAPTER_RENEW_S", -1)
    await served.begin()
    await redis.expire(keys.adapter(location), 1000)

    await served.look()

    assert served.serving.version == 1
    assert await redis.ttl(keys.adapter(location)) > 1000
