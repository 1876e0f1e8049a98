"""An adapter of the weight store that is not right is refused by name, and the old version serves on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from rollstream.schemas import Keys
from rollstream.transport.weights import WeightStore
from rollstream.worker.adapters import stored
from rollstream.worker.adapters.folder import AdapterFolder
from rollstream.worker.adapters.supply import AdapterSupply
from rollstream.worker.checkpoints.supply import CheckpointSupply
from rollstream.worker.measure.measures import Measures
from rollstream.worker.versions.make_follower import make_follower
from rollstream.worker.versions.proofs import Proofs
from tests.support.adapter_steps import RecordingEngine, on_disk
from tests.support.weights.following import following, served
from tests.support.weights.weight_versions import tensors_of, write
from tests.support.worker_process import until_true
from tests.worker.versions.stored_adapters.parts import Elsewhere, Worker, same, worker


async def lost(store: WeightStore, chunk: str) -> None:
    await store.delete([chunk])


async def altered(store: WeightStore, chunk: str) -> None:
    data = await store.get(chunk, 2**26)
    await store.put(chunk, data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize("harm", [lost, altered])
async def test_a_delta_that_cannot_be_read_leaves_the_old_version_serving_and_the_next_anchor_heals(
    serving: Worker, elsewhere: Elsewhere, weights: WeightStore, harm: Any
) -> None:
    (chunk,) = await elsewhere.chunks(1)
    await harm(weights, chunk)
    elsewhere.announce(0)
    await until_true(served(serving.follower, 1))

    elsewhere.announce(1)
    await until_true(lambda: chunk[:16] in serving.follower.error)
    assert (serving.follower.serving.version, same(serving.tensors, elsewhere.tensors[0])) == (1, True)

    elsewhere.announce(2)
    await until_true(served(serving.follower, 3))
    assert same(serving.tensors, elsewhere.tensors[2])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sha256": "0" * 64}, "the store has other weights under this name"),
        ({"location": "2-0123456789abcdef"}, "2-0123456789abcdef"),
        ({"location": "../../etc"}, "../../etc"),
        ({"source": "checkpoint"}, "an adapter, and announced as a checkpoint"),
    ],
    ids=str,
)
async def test_what_is_announced_wrongly_is_refused_by_name(
    serving: Worker, elsewhere: Elsewhere, changes: dict[str, Any], told: str
) -> None:
    elsewhere.announce(1, **changes)
    await until_true(lambda: told in serving.follower.error)
    assert serving.follower.serving.version == 0


async def test_a_checkpoint_that_is_announced_as_an_adapter_is_refused(
    serving: Worker, weights: WeightStore, tiny_model: Path, elsewhere: Elsewhere
) -> None:
    manifest = await write(weights, 7, tensors_of(tiny_model))
    elsewhere.announce(0, version=7, location=manifest.name, sha256=manifest.sha256)
    await until_true(lambda: "no adapter, and announced as one" in serving.follower.error)


async def test_one_that_is_too_large_is_refused_before_a_chunk_is_fetched(
    redis: Redis, policy: str, weights: WeightStore, tiny_model: Path, tmp_path: Path, elsewhere: Elsewhere
) -> None:
    await weights.delete(await elsewhere.chunks(0))
    async with worker(redis, Keys(policy), weights, tiny_model, tmp_path, max_bytes=1000) as one:
        elsewhere.announce(0)
        await until_true(lambda: "exceed the worker's --max-adapter-bytes 1000" in one.follower.error)


async def test_a_worker_whose_disk_takes_no_copy_serves_the_old_version_on(
    serving: Worker, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere.announce(0)
    await until_true(served(serving.follower, 1))

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(stored, "_copy", full)
        elsewhere.announce(1)
        await until_true(lambda: "cannot be written" in serving.follower.error)
        assert (serving.follower.serving.version, same(serving.tensors, elsewhere.tensors[0])) == (1, True)
    elsewhere.announce(2)
    await until_true(served(serving.follower, 3))


async def test_a_copy_with_other_bytes_is_not_served(
    serving: Worker, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = stored._copy

    def copied_wrong(source: Path, folder: Path) -> None:
        copy(source, folder)
        path = folder / "adapter_model.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"\x01")

    monkeypatch.setattr(stored, "_copy", copied_wrong)
    elsewhere.announce(0)
    await until_true(lambda: "its copy on the worker's disk has other bytes" in serving.follower.error)
    assert on_disk(serving.cache) == []


async def test_a_worker_that_serves_no_adapters_says_so(
    redis: Redis, policy: str, elsewhere: Elsewhere, tiny_model: Path
) -> None:
    engine = RecordingEngine()
    adapters = AdapterSupply(engine=engine, folder=AdapterFolder(root=None, max_rank=16, model=None), store=None)
    followed = make_follower(
        redis=redis, keys=Keys(policy), engine=engine, adapters=adapters, checkpoints=CheckpointSupply(folder=None),
        proofs=Proofs(), swap="keep", changed=lambda: None, measures=Measures(),
    )  # fmt: skip
    elsewhere.announce(0)
    async with following(followed):
        await until_true(lambda: "start it with --lora" in followed.error)
