"""An adapter in Redis is complete and never changes; what is no adapter is not sent."""

from __future__ import annotations

import asyncio
import os
import shutil
import tracemalloc
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from producer import (
    AdapterConflictError,
    AdapterError,
    AsyncClient,
    NameRefusedError,
    RedisUnavailableError,
)
from producer.adapter_files import CHUNK_BYTES, read_adapter
from producer.adapter_upload import upload
from producer.connection import Connection
from schemas import AdapterManifest, decode
from tests.faults import Link, Queue
from tests.publishing import STEM, A, B, announced, blobs, lora, manifests, peft_folder, read_back

MIB = 2**20


@pytest.fixture
async def trainer(redis_url: str, policy: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(redis_url, policy=policy) as client:
        yield client


@pytest.fixture
async def faulty(link: Link, policy: str) -> AsyncIterator[AsyncClient]:
    """A trainer whose way to Redis can be harmed."""
    async with AsyncClient(link.url, policy=policy, reconnect_s=5) as client:
        yield client


def ttl(queue: Queue, key: bytes) -> int:
    return queue.redis.ttl(key)


async def test_an_adapter_from_tensors_is_read_back_as_one_from_a_folder(
    trainer: AsyncClient, queue: Queue, tmp_path: Path
) -> None:
    tensors = lora(width=2**18)  # two chunks and a half
    assert await trainer.publish_adapter("math", 16, peft_folder(tmp_path / "a", tensors), progress=True) == "math@16"
    assert await trainer.publish_adapter("math", 17, tensors, lora_alpha=8) == "math@17"

    (config, weights), (other_config, other_weights) = read_back(queue, "math@16"), read_back(queue, "math@17")
    assert len(blobs(queue)) == 6
    assert other_config.items() >= config.items()
    assert other_config["target_modules"] == ["q_proj"]
    assert weights.keys() == other_weights.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(weights[name], tensor)
        assert torch.equal(other_weights[name], tensor)
    for key in (*blobs(queue), *manifests(queue)):
        assert 86_000 < ttl(queue, key) <= 90_000


async def test_tensors_may_be_trained_on_once_the_call_has_begun(trainer: AsyncClient, queue: Queue) -> None:
    tensors = lora(width=2**20)  # large enough to be still on its way then
    expected = {name: tensor.clone() for name, tensor in tensors.items()}
    publishing = asyncio.create_task(trainer.publish_adapter("math", 1, tensors, lora_alpha=8))
    await asyncio.sleep(0)  # it runs up to where it first waits
    for tensor in tensors.values():
        tensor.zero_()
    await publishing
    _, found = read_back(queue, "math@1")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


async def test_tensors_that_share_memory_or_carry_gradients_travel(trainer: AsyncClient, queue: Queue) -> None:
    fused = torch.arange(64.0, dtype=torch.float64).reshape(8, 8).to(torch.bfloat16).requires_grad_()
    tensors = {f"{STEM}.lora_A.weight": fused[:4], f"{STEM}.lora_B.weight": fused.T[:, :4]}
    await trainer.publish_adapter("math", 1, tensors, lora_alpha=8)
    _, found = read_back(queue, "math@1")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


async def test_an_adapter_never_changes(trainer: AsyncClient, queue: Queue) -> None:
    await trainer.publish_adapter("math", 1, lora(1), lora_alpha=8)
    before = read_back(queue, "math@1")[1]
    for other, alpha in ((lora(2), 8), (lora(1), 16)):
        with pytest.raises(AdapterConflictError, match="math@1"):
            await trainer.publish_adapter("math", 1, other, lora_alpha=alpha)
    assert len(blobs(queue)) == 1, "what cannot be published was sent"
    assert read_back(queue, "math@1")[1].keys() == before.keys()


async def test_of_two_trainers_with_the_same_name_the_first_to_finish_wins(redis_url: str, queue: Queue) -> None:
    small, large = await read_adapter("x", lora(1), 8), await read_adapter("x", lora(2, width=2**20), 8)
    connections = [Connection(redis_url, reconnect_s=5) for _ in range(2)]
    calls = (
        upload(connection, queue.keys, "math@1", files, progress=False)
        for connection, files in zip(connections, (small, large), strict=True)
    )
    won, lost = await asyncio.gather(*calls, return_exceptions=True)
    for connection in connections:
        await connection.aclose()
    assert isinstance(won, AdapterManifest)
    assert isinstance(lost, AdapterConflictError)
    assert torch.equal(read_back(queue, "math@1")[1][A], lora(1)[A])


async def test_publishing_an_adapter_again_renews_it_and_restores_lost_chunks(
    trainer: AsyncClient, queue: Queue
) -> None:
    tensors = lora(width=2**18)
    await trainer.publish_adapter("math", 1, tensors, lora_alpha=8)
    keys = blobs(queue)
    queue.redis.delete(keys[0])
    for key in (*keys[1:], *manifests(queue)):
        queue.redis.expire(key, 60)
    assert await trainer.publish_adapter("math", 1, tensors, lora_alpha=8) == "math@1"
    read_back(queue, "math@1")
    assert all(ttl(queue, key) > 86_000 for key in (*keys, *manifests(queue)))


@pytest.mark.parametrize(
    ("call", "nth"),
    [(b"STRLEN", 1), (b"$3\r\nSET\r\n", 1), (b"$3\r\nSET\r\n", 3), (b"NX", 1), (b"GETEX", 1)],
    ids=["look", "chunk", "last chunk", "manifest", "read back"],
)
async def test_a_lost_reply_to_an_upload_changes_nothing(
    faulty: AsyncClient, link: Link, queue: Queue, call: bytes, nth: int
) -> None:
    link.lose_reply(to=call, nth=nth)
    tensors = lora(width=2**18)
    assert await faulty.publish_adapter("math", 1, tensors, lora_alpha=8) == "math@1"
    assert link.lost == 1
    assert torch.equal(read_back(queue, "math@1")[1][f"{STEM}.lora_A.weight"], tensors[f"{STEM}.lora_A.weight"])


@pytest.mark.parametrize("as_policy", [False, True], ids=["an adapter", "a policy"])
async def test_an_upload_that_was_cut_short_leaves_nothing_that_is_found(
    link: Link, redis_url: str, policy: str, queue: Queue, as_policy: bool
) -> None:
    tensors = lora(width=2**18)

    async def publish(url: str, reconnect_s: float) -> None:
        async with AsyncClient(url, policy=policy, reconnect_s=reconnect_s) as client:
            if as_policy:
                await client.publish_policy(1, adapter=tensors, lora_alpha=8)
            else:
                await client.publish_adapter("math", 1, tensors, lora_alpha=8)

    link.cut_after(6 * MIB)
    with pytest.raises(RedisUnavailableError):
        await publish(link.url, 0.2)
    assert len(blobs(queue)) == 1, "the cut came at another place"
    assert (manifests(queue), announced(queue)) == ([], [])
    await publish(redis_url, 5)
    (name,) = manifests(queue)
    read_back(queue, name.decode().partition(":adapter:")[2])
    assert len(announced(queue)) == as_policy


async def test_a_policy_published_as_an_adapter_names_what_it_shipped(trainer: AsyncClient, queue: Queue) -> None:
    tensors = lora()
    published = await trainer.publish_policy(4, adapter=tensors, lora_alpha=8)
    assert (published.version, published.source) == (4, "adapter")
    manifest = decode(cast("bytes", queue.redis.get(queue.keys.adapter(published.location))), AdapterManifest)
    assert manifest.sha256 == published.sha256
    assert manifest.name == published.location == f"policy.{published.sha256[:16]}@4"
    with pytest.raises(AdapterError, match="those of policy versions"):
        await trainer.publish_adapter(published.location.partition("@")[0], 5, tensors, lora_alpha=8)


async def test_a_trainer_that_died_before_announcing_publishes_other_weights_later(
    trainer: AsyncClient, redis_url: str, queue: Queue
) -> None:
    """Training is not repeatable: after a restart step 1 may give other weights."""
    await trainer.publish_policy(1, adapter=lora(1), lora_alpha=8)
    queue.redis.delete(queue.keys.versions())
    published = await trainer.publish_policy(1, adapter=lora(2), lora_alpha=8)
    assert announced(queue) == [("1-0", published)]


BAD_TENSORS: list[tuple[dict[str, Any], Any, str]] = [
    ({}, 8, "one rank"),
    (lora(), None, "lora_alpha None"),
    (lora(), 0, "lora_alpha 0"),
    (lora(), True, "lora_alpha True"),
    (lora(), float("nan"), "lora_alpha nan"),
    ({**lora(), "lm_head.weight": torch.ones(2, 2)}, 8, "'lm_head.weight' is no LoRA weight"),
    ({f"{STEM}.lora_A.default.weight": torch.ones(2, 2)}, 8, "get_peft_model_state_dict"),
    ({A: torch.ones(4, 8)}, 8, "needs both lora_A and lora_B"),
    ({A: torch.ones(4, 8), B: torch.ones(8, 5)}, 8, r"found \[4, 5\]"),
    ({A: torch.ones(4), B: torch.ones(8, 4)}, 8, "two dimensions"),
    ({A: [[1.0]], B: [[1.0]]}, 8, "must be a torch tensor"),
    ({A: torch.empty(1, 2**29, device="meta"), B: torch.empty(1, 1, device="meta")}, 8, "at most 1073741824 travel"),
]


@pytest.mark.parametrize(("tensors", "alpha", "words"), BAD_TENSORS, ids=[words for *_, words in BAD_TENSORS])
async def test_tensors_that_are_no_adapter_are_not_sent(
    trainer: AsyncClient, queue: Queue, tensors: dict[str, Any], alpha: Any, words: str
) -> None:
    with pytest.raises(AdapterError, match=words):
        await trainer.publish_adapter("math", 1, tensors, lora_alpha=alpha)
    assert (manifests(queue), blobs(queue)) == ([], [])


def _truncate(folder: Path) -> None:
    with (folder / "adapter_model.safetensors").open("r+b") as file:
        file.truncate(100)


def _enlarge(folder: Path) -> None:
    with (folder / "adapter_model.safetensors").open("r+b") as file:
        file.truncate(2**30 + 1)  # a sparse file


BAD_FOLDERS: list[tuple[Callable[[Path], object], str]] = [
    (shutil.rmtree, "needs adapter_config.json and adapter_model.safetensors"),
    (lambda folder: (folder / "adapter_model.safetensors").unlink(), "needs adapter_config.json"),
    (lambda folder: (folder / "adapter_config.json").write_text("[]"), "adapter_config.json is no JSON object"),
    (lambda folder: (folder / "adapter_config.json").write_text('{"a'), "adapter_config.json is no JSON object"),
    (lambda folder: (folder / "adapter_config.json").write_bytes(b" " * 70_000), "more than 65536 bytes"),
    (_truncate, "is not whole"),
    (_enlarge, "at most 1073741824 travel"),
]


@pytest.mark.parametrize(
    ("harm", "words"), BAD_FOLDERS, ids=[f"{n} {words[:30]}" for n, (_, words) in enumerate(BAD_FOLDERS)]
)
async def test_a_folder_that_is_no_adapter_is_not_sent(
    trainer: AsyncClient, queue: Queue, tmp_path: Path, harm: Callable[[Path], object], words: str
) -> None:
    folder = peft_folder(tmp_path / "a", lora())
    harm(folder)
    with pytest.raises(AdapterError, match=words):
        await trainer.publish_adapter("math", 1, folder)
    assert (manifests(queue), blobs(queue)) == ([], [])


async def test_a_folder_knows_its_lora_alpha(trainer: AsyncClient, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="leave it out"):
        await trainer.publish_adapter("math", 1, peft_folder(tmp_path / "a", lora()), lora_alpha=8)
    with pytest.raises(AdapterError, match="give a folder or a state dict, not int"):
        await trainer.publish_adapter("math", 1, cast("Any", 5))


@pytest.mark.parametrize(
    ("name", "version"), [("math", -1), ("math", True), ("math", "1"), ("ma:th", 1), ("", 1), (3, 1)]
)
async def test_names_that_no_key_may_hold_are_refused(trainer: AsyncClient, name: Any, version: Any) -> None:
    with pytest.raises(NameRefusedError):
        await trainer.publish_adapter(name, version, lora(), lora_alpha=8)


async def test_a_file_that_changes_during_an_upload_never_travels_under_the_old_digest(
    redis_url: str, queue: Queue, tmp_path: Path
) -> None:
    folder = peft_folder(tmp_path / "a", lora(width=2**18))
    files = await read_adapter("math@1", folder, None)
    with (folder / "adapter_model.safetensors").open("r+b") as file:
        file.seek(CHUNK_BYTES + 100)
        file.write(b"changed")
    connection = Connection(redis_url, reconnect_s=5)
    with pytest.raises(AdapterError, match="changed while it was read"):
        await upload(connection, queue.keys, "math@1", files, progress=False)
    shutil.rmtree(folder)
    with pytest.raises(AdapterError, match="cannot be read any more"):
        await upload(connection, queue.keys, "math@1", files, progress=False)
    await connection.aclose()
    assert manifests(queue) == []
    assert len(blobs(queue)) == 1


async def test_a_folder_is_read_chunk_by_chunk(trainer: AsyncClient, tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "a", lora(width=2**20))
    tracemalloc.start()
    await trainer.publish_adapter("math", 1, folder)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (folder / "adapter_model.safetensors").stat().st_size > 32 * MIB
    assert peak < 4 * CHUNK_BYTES


async def test_reading_leaves_the_event_loop_free(trainer: AsyncClient, tmp_path: Path) -> None:
    folder = peft_folder(tmp_path / "a", lora())
    config = (folder / "adapter_config.json").read_bytes()
    (folder / "adapter_config.json").unlink()
    os.mkfifo(folder / "adapter_config.json")  # whoever reads it waits for a writer
    publishing = asyncio.create_task(trainer.publish_adapter("math", 1, folder))
    assert not (await asyncio.wait([publishing], timeout=0.3))[0]
    await asyncio.to_thread((folder / "adapter_config.json").write_bytes, config)
    assert await publishing == "math@1"
