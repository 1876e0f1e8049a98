"""Fixtures: one real Redis a test process, a policy (so a queue) of its own for every test, workers as processes."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import redis as blocking
from redis.asyncio import Redis
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from rollstream import AsyncClient, Client
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.producer.demo.local_cluster import LocalCluster
from rollstream.producer.demo.tiny_model import write_adapter, write_model
from rollstream.producer.demo.worker_process import SMALL_MODEL_ENV
from rollstream.worker.cache_folder import CacheFolder
from rollstream.worker.redis_io.connections import connect
from tests.lasting_keys import without_ttl
from tests.support.faults import Link, Queue
from tests.support.weights.versions import write_steps
from tests.support.worker_process import WorkerProcess, running_worker

_numbers = itertools.count()

os.environ.update(SMALL_MODEL_ENV)
for name in ("COLUMNS", "LINES"):  # pytest-xdist's processes have a size, and commands would cut what they print to it
    os.environ.pop(name, None)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background; tests that interrupt inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
hypothesis.settings.register_profile("rollstream", deadline=None)  # a busy machine takes any time for an example
hypothesis.settings.load_profile("rollstream")


ENGINES = {
    "engines": (
        "test_adapters_as_peft",
        "test_demo",
        "test_end_to_end",
        "test_engine_faults",
        "test_gateway_streams",
        "generation",
        "real_engine/test_conversations",
        "real_engine/test_cuts",
        "real_engine/test_split_groups",
        "test_golden",
        "test_guide_compiler",
        "test_sampling_options",
        "test_score_batches",
        "test_score_jobs",
        "test_stops_and_masks",
        "test_swappable",
        "test_thinking_rule",
        "test_trajectories_trained",
        "test_vllm_deaths",
        "test_vllm_defects",
        "test_vllm_start",
    ),
    "browser": ("browser",),
    "prometheus": ("test_real_prometheus",),
    "wheel": ("test_wheel",),
    "training": (
        "real_engine/images",
        "test_agent_example",
        "test_example",
        "test_expert_swaps",
        "test_families",
        "test_tensor_parallel",
        "test_trl",
        "test_trl_publishing",
        "test_two_engines",
        "weight_swap",
    ),
}
"""Files and folders whose tests start vLLM engines, in parts of about the same time, and those that share a browser, a
Prometheus or a built wheel; one that is missing costs time, no more: it starts workers again that others have started.
With the folder before it a file is that one alone, and not its namesake.
"""


class EnginesShared(LoadScopeScheduling):  # type: ignore[misc] # pytest-xdist ships no types
    """The tests of a part of `ENGINES` go to one test process, which shares engines among tests of a file or folder.

    Every other test goes to whichever process is free. pytest-xdist's own groups need marks in the test ids, which
    pytest 9 does not let it write.
    """

    def _split_scope(self, nodeid: str) -> str:
        stems = [Path(part).stem for part in nodeid.partition("::")[0].split("/")]
        names = {*stems, *map("/".join, itertools.pairwise(stems))}
        return next((part for part, files in ENGINES.items() if names.intersection(files)), nodeid)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--large", action="store_true", help="run the tests marked `large`, and no others")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wanted: dict[bool, list[pytest.Item]] = {True: [], False: []}
    for item in items:
        wanted[config.getoption("large") == (item.get_closest_marker("large") is not None)].append(item)
    if wanted[False]:
        items[:] = wanted[True]
        config.hook.pytest_deselected(items=wanted[False])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> EnginesShared:
    return EnginesShared(config, log)


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with EmbeddedRedis() as server:
        yield server.url


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[LocalCluster]:
    """One cluster for each test process, because it takes two seconds to form."""
    with LocalCluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: LocalCluster) -> LocalCluster:
    """Three nodes, whole; a test that harms it mends it."""
    shared_cluster.wait_until_whole()
    return shared_cluster


@pytest.fixture
def policy(request: pytest.FixtureRequest) -> str:
    name = re.sub(r"[^A-Za-z0-9]+", "-", request.node.name).strip("-")[:60]
    return f"{name}-{next(_numbers)}"


@pytest.fixture(autouse=True)
def nothing_lasts_by_mistake(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test after which a key of its policy has no TTL and should have one, see `tests.lasting_keys`."""
    is_by_hand = request.node.get_closest_marker("keys_by_hand") is not None
    if is_by_hand or not {"policy", "redis_url"} <= set(request.fixturenames):
        yield
        return
    url, name = request.getfixturevalue("redis_url"), request.getfixturevalue("policy")
    yield
    with blocking.Redis.from_url(url) as connected:
        found = without_ttl(connected, name)
    assert found == [], "these keys stay in Redis for ever"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client as the worker makes it."""
    client = connect(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
def client(redis_url: str, policy: str) -> Iterator[Client]:
    """A blocking client of this test's policy."""
    with Client(redis_url, policy=policy) as client:
        yield client


@pytest.fixture
async def trainer(redis_url: str, policy: str) -> AsyncIterator[AsyncClient]:
    """A client, of this test's policy, for tests that run on a loop themselves."""
    async with AsyncClient(redis_url, policy=policy) as client:
        yield client


@pytest.fixture
async def faulty(link: Link, policy: str) -> AsyncIterator[AsyncClient]:
    """A trainer whose way to Redis can be harmed."""
    async with AsyncClient(link.url, policy=policy, reconnect_s=5) as client:
        yield client


@pytest.fixture
def server(redis_url: str) -> Iterator[Any]:
    """A plain client, without types, that blocks."""
    with blocking.Redis.from_url(redis_url) as connected:
        yield connected


@pytest.fixture
def queue(redis_url: str, policy: str) -> Iterator[Queue]:
    """What Redis holds of this test's policy."""
    with Queue(redis_url, policy) as queue:
        yield queue


@pytest.fixture
def link(redis_url: str) -> Iterator[Link]:
    """A way to the same Redis that can be frozen, cut or made to lose a reply."""
    with Link(redis_url) as link:
        yield link


@pytest.fixture
def long_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for the end of a read that blocks, or for a silent Redis, waits for a minute: far longer than a test
    that must not wait for it takes on a busy machine. For clients that are made after this.
    """
    for module in ("transport.redis.client_settings", "producer.redis_io.connection", "worker.intake.make_consumer"):
        monkeypatch.setattr(f"rollstream.{module}.BLOCK_MS", 60_000)


@pytest.fixture
def stub_worker(redis_url: str, policy: str) -> Iterator[WorkerProcess]:
    """A serving stub worker of this test's policy; vocabulary 1000."""
    with running_worker(redis_url, policy, "--engine", "stub", "--stub-vocab-size", "1000") as worker:
        yield worker


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 Qwen2 of two layers with a tokenizer, vocabulary 512, EOS 2."""
    return write_model(tmp_path_factory.mktemp("models") / "tiny", seed=0)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """step-1, step-2 and step-3: the tiny model with other weights, without a tokenizer; not to be harmed."""
    return write_steps(tmp_path_factory.mktemp("checkpoints"), 1, 2, 3)


@pytest.fixture
def steps(models: Path, tmp_path: Path) -> Path:
    """step-1, step-2 and step-3, which a test may harm."""
    return Path(shutil.copytree(models, tmp_path / "steps"))


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[CacheFolder]:
    cache = CacheFolder(tmp_path / "cache")
    cache.open()
    yield cache
    cache.close()


@pytest.fixture(scope="session")
def adapter_dir(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Adapters of the tiny model: math@1, math@2 and code@1 of rank 8."""
    root = tmp_path_factory.mktemp("adapters")
    for seed, name in enumerate(("math@1", "math@2", "code@1"), start=1):
        write_adapter(root, name, model=tiny_model, seed=seed)
    return root
