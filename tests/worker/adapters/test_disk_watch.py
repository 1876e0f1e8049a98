"""A disk that takes no adapters is a fault of its machine: no job is answered for it, and others run the jobs."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from rollstream import Client
from rollstream.producer.demo.tiny_model import write_adapter
from rollstream.schemas import GroupResult, Keys
from rollstream.worker.adapters.store import AdapterStore
from rollstream.worker.cache_folder import CacheFolder
from rollstream.worker.errors import CacheUnwritableError
from tests.support.adapter_steps import SIZE, on_disk, put
from tests.support.fault_steps import log_of, stub, tokens, wait_until_done, wait_until_logged
from tests.support.faults import Queue, audit
from tests.support.weights.versions import report, wait_until_refused, wait_until_reported
from tests.support.worker_process import WorkerProcess

RANK = 32
LIMIT = 300_000
"""Less than an adapter of that rank, more than a worker's log."""


@contextlib.contextmanager
def full_disk(worker: WorkerProcess) -> Iterator[None]:
    """Its larger files cannot be written, as by a disk that is nearly full."""
    before = resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (LIMIT, resource.RLIM_INFINITY))
    yield
    resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, before)


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Path) -> Path:
    """An adapter that does not fit under `LIMIT`."""
    folder = write_adapter(tmp_path, "large@1", model=tiny_model, seed=1, rank=RANK)
    assert (folder / "adapter_model.safetensors").stat().st_size > LIMIT
    return folder


def test_a_worker_whose_disk_is_full_leaves_its_jobs_to_others_and_serves_again_when_there_is_room(
    redis_url: str, policy: str, client: Client, queue: Queue, folder: Path, tiny_model: Path
) -> None:
    flags = ("--lora", "--model", str(tiny_model), "--max-lora-rank", str(RANK))
    name = client.publish_adapter("large", 1, folder)
    with (
        stub(redis_url, policy, *flags, lease_s=5) as sick,
        stub(redis_url, policy, *flags, group_s=0.1, at_once=8, lease_s=5) as healthy,
    ):
        with full_disk(sick):
            batch = client.submit([[5 + row] for row in range(30)], None, tokens(), adapter=name, prompts_per_job=1)
            wait_until_reported(sick, queue, state="paused", paused_for="adapter cache")
            wait_until_done(queue, batch.batch_id, 30, sick, healthy)
            answers = audit(redis_url, policy, batch.batch_id, 30)
            assert [getattr(answer, "delivery", None) for answer in answers] == [1] * 30, "a delivery was counted"
            assert "--adapter-cache" in sick.log
            assert report(sick, queue)["state"] == "paused", "it does not wait for room"
        wait_until_reported(sick, queue, state="serving", paused_for="")
    assert all(isinstance(answer, GroupResult) for answer in answers), log_of(sick, healthy)


def test_the_only_worker_answers_what_waited_once_its_disk_has_room(
    redis_url: str, policy: str, client: Client, queue: Queue, folder: Path, adapter_dir: Path, tiny_model: Path
) -> None:
    flags = ("--lora", "--model", str(tiny_model), "--max-lora-rank", str(RANK))
    name = client.publish_adapter("large", 1, folder)
    with stub(redis_url, policy, *flags) as worker:
        with full_disk(worker):
            batch = client.submit([[5], [6]], None, tokens(), adapter=name, prompts_per_job=1)
            wait_until_logged(worker, "job given back")
            client.publish_policy(1, adapter=folder)
            wait_until_refused(worker, queue, 1, "--adapter-cache")
            assert queue.done(batch.batch_id) == 0
        wait_until_done(queue, batch.batch_id, 2, worker)
        assert all(isinstance(answer, GroupResult) for answer in audit(redis_url, policy, batch.batch_id, 2))


async def test_what_nobody_uses_goes_when_the_disk_is_full_before_any_job_is_given_back(
    redis: Redis, policy: str, cache: CacheFolder
) -> None:
    keys = Keys(policy)
    store = AdapterStore(redis=redis, keys=keys, cache=cache, max_bytes=SIZE, cache_bytes=10 * SIZE)
    for version in range(1, 4):
        await put(redis, keys, f"math@{version}")
    await store.fetch("math@1")
    (cache.folder / "math@2.2").write_bytes(b"")  # where its folder is to be made

    with store.in_use("math@2"):
        assert await store.fetch("math@2") is not None
        assert on_disk(cache) == ["math@2"]
        (cache.folder / "math@3.4").write_bytes(b"")
        with pytest.raises(CacheUnwritableError, match=r"--adapter-cache.*File exists \(errno 17\)"):
            await store.fetch("math@3")
    assert await store.fetch("math@3") is not None
    await store.close()


def test_a_cache_is_asked_for_as_much_as_is_needed_and_keeps_nothing_of_it(cache: CacheFolder) -> None:
    cache.check(SIZE)
    with pytest.raises(OSError, match=r"Errno"):
        cache.check(2**62)

    assert [path.name for path in cache.folder.iterdir()] == [".lock"]
