"""Versions that come through the weight store in Redis: whatever happens on the way, a complete one is served."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from safetensors.torch import load_file

from rollstream import Client
from rollstream.schemas import Keys, WeightsManifest
from rollstream.transport.weights import WeightStore, store_of
from rollstream.transport.weights.in_redis import PlainCall
from tests.support.fault_steps import kill, stub, stub_flags, tokens, wait_until_done
from tests.support.faults import Link, Queue
from tests.support.weights.publishing import restore
from tests.support.weights.versions import report, spans, wait_until_refused, wait_until_serves
from tests.support.weights.weight_versions import Tensors, announce_weights, tensors_of, trained, write
from tests.support.worker_process import WorkerProcess, until_true, wait_for


@pytest.fixture
def weights(redis: Redis, policy: str) -> WeightStore:
    return store_of("redis", Keys(policy), PlainCall(redis))


@pytest.fixture(scope="module")
def boot(tiny_model: Path) -> Tensors:
    return tensors_of(tiny_model)


@pytest.fixture
def flags(tiny_model: Path, tmp_path: Path) -> list[str]:
    return ["--weights", "redis", "--weights-cache", str(tmp_path / "cache"), "--model", str(tiny_model)]


@pytest.fixture
def halted(redis_url: str) -> Iterator[Link]:
    with Link(redis_url) as link:
        yield link


def kept(tmp_path: Path) -> list[str]:
    """Names of the versions in the caches of all workers."""
    return sorted(path.name for path in (tmp_path / "cache").glob("*/*/*"))


async def two(weights: WeightStore, boot: Tensors) -> list[tuple[WeightsManifest, Tensors]]:
    """An anchor and a delta."""
    first = trained(boot, 1)
    anchor = await write(weights, 1, first)
    second = trained(first, 2)
    return [(anchor, first), (await write(weights, 2, second, (anchor, first)), second)]


async def test_anchor_and_deltas_are_served_while_completions_go_on_and_a_late_joiner_gets_the_same(
    redis_url: str, policy: str, client: Client, queue: Queue, weights: WeightStore, boot: Tensors, flags: list[str],
) -> None:  # fmt: skip
    (anchor, _), (delta, after) = await two(weights, boot)
    with stub(redis_url, policy, *flags, group_s=0.05, at_once=16) as worker:
        batch = client.submit([[5 + row] for row in range(12)], None, tokens(200))
        for manifest in (anchor, delta, await write(weights, 3, trained(after, 3), (delta, after))):
            announce_weights(queue, manifest)
            wait_until_serves(worker, queue, manifest.version)
        wait_until_done(queue, batch.batch_id, 12, worker)
        with stub(redis_url, policy, *flags) as late:
            wait_until_serves(late, queue, 3)
            assert report(late, queue)["policy_sha256"] == report(worker, queue)["policy_sha256"] == manifest.sha256

    assert len({version for of_one in spans(redis_url, queue, batch.batch_id, 12) for version, _ in of_one}) > 1


@pytest.mark.parametrize("place", ["redis", "folder"])
def test_what_a_trainer_publishes_of_its_tensors_is_served_by_those_there_and_by_a_late_joiner(
    redis_url: str, policy: str, queue: Queue, flags: list[str], tiny_model: Path, tmp_path: Path, place: str
) -> None:
    store = place if place == "redis" else str(tmp_path)
    flags = [*flags, "--weights", store]
    tensors = load_file(tiny_model / "model.safetensors")
    with (
        Client(redis_url, policy=policy, weights=store) as trainer,
        stub(redis_url, policy, *flags) as worker,
    ):
        for version in (1, 2, 3):
            for name in sorted(tensors)[version::3]:
                tensors[name][..., :2] *= 1.01
            published = trainer.publish_policy(version, state_dict=tensors)
            trainer.wait_for_version(version, timeout=30)
        with stub(redis_url, policy, *flags) as late:
            trainer.wait_for_version(3, workers=2, timeout=30)
            assert report(late, queue)["policy_sha256"] == published.sha256

    assert published.base == 2
    assert [line.count("base=") for line in worker.log.splitlines() if "weights fetched" in line] == [1, 1, 1]
    assert "base=2-" in worker.log, "the delta was not built on what was there"


async def test_a_delta_that_lost_a_chunk_is_refused_by_name_and_the_next_anchor_heals(
    redis_url: str, policy: str, queue: Queue, weights: WeightStore, boot: Tensors, flags: list[str],
) -> None:  # fmt: skip
    (anchor, _), (delta, _) = await two(weights, boot)
    await weights.delete([delta.chunks[-1].sha256])
    with stub(redis_url, policy, *flags) as worker:
        announce_weights(queue, anchor)
        wait_until_serves(worker, queue, 1)
        announce_weights(queue, delta)
        wait_until_refused(worker, queue, 2, f"weights {delta.name}: cannot read {delta.chunks[-1].sha256}")
        assert report(worker, queue)["policy_version"] == "1"
        announce_weights(queue, await write(weights, 3, trained(boot, 3)))
        wait_until_serves(worker, queue, 3)


async def test_a_refused_version_is_served_once_what_it_lacked_is_there(
    redis_url: str, policy: str, queue: Queue, weights: WeightStore, boot: Tensors, flags: list[str],
) -> None:  # fmt: skip
    (anchor, _), _ = await two(weights, boot)
    data = await weights.get(anchor.name, 2**26)
    await weights.delete([anchor.name])
    with stub(redis_url, policy, *flags) as worker:
        announce_weights(queue, anchor)
        wait_until_refused(worker, queue, 1, f"cannot read {anchor.name}")
        await weights.put(anchor.name, data)
        wait_until_serves(worker, queue, 1, timeout_s=8)  # a version is tried again by itself after ten seconds


async def test_a_worker_killed_while_it_patches_leaves_what_the_next_one_removes_and_does_again(
    redis_url: str, policy: str, queue: Queue, weights: WeightStore, boot: Tensors, flags: list[str], tmp_path: Path,
    halted: Link,
) -> None:  # fmt: skip
    (anchor, _), (delta, _) = await two(weights, boot)
    announce_weights(queue, anchor)
    worker = WorkerProcess(halted.url, policy, *stub_flags(), *flags).wait_until_serving()
    try:
        key = queue.keys.weights_item(delta.chunks[-1].sha256)
        halted.stop_at(f"GETRANGE\r\n${len(key)}\r\n{key}".encode(), answered=False)
        announce_weights(queue, delta)
        await until_true(halted.stopped.is_set)
        wait_for(lambda: kept(tmp_path) == [anchor.name, delta.name], 10, lambda: f"{kept(tmp_path)}\n{worker.log}")
        kill(worker)
    finally:
        worker.end()
    assert kept(tmp_path) == [anchor.name, delta.name], "nothing was left that had to be removed"

    with stub(redis_url, policy, *flags) as following:
        wait_until_serves(following, queue, 2)
        assert kept(tmp_path) == [delta.name]

    assert not kept(tmp_path), "a worker that ended in order has left its cache"


async def test_a_redis_that_goes_away_in_the_middle_of_a_fetch_only_delays_it(
    policy: str, queue: Queue, weights: WeightStore, boot: Tensors, flags: list[str], halted: Link
) -> None:
    (anchor, _), _ = await two(weights, boot)
    with stub(halted.url, policy, *flags) as worker:
        halted.cut_after(60_000)
        announce_weights(queue, anchor)
        wait_for(lambda: "trying again" in worker.log, 20, lambda: worker.log)
        restore(halted)
        wait_until_serves(worker, queue, 1, timeout_s=40)


async def test_a_worker_without_a_store_refuses_by_name_and_serves_on(
    redis_url: str, policy: str, queue: Queue, weights: WeightStore, boot: Tensors
) -> None:
    (anchor, _), _ = await two(weights, boot)
    with stub(redis_url, policy) as worker:
        announce_weights(queue, anchor)
        wait_until_refused(worker, queue, 1, "without --weights")
        assert report(worker, queue)["takes_store"] == "0"
