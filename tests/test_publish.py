"""A policy version is announced whole or not at all, versions only grow, and none is announced twice."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from producer import (
    AsyncClient,
    CheckpointError,
    PolicyVersion,
    PolicyVersionError,
)
from producer.checkpoint_files import CheckpointFolder
from producer.tiny_model import write_model
from tests.checkpoints import shard
from tests.faults import Link, Queue
from tests.publishing import announced, blobs, lora
from worker.checkpoint import digest


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """step-1 and step-2: the same model with other weights."""
    root = tmp_path_factory.mktemp("checkpoints")
    for seed in (1, 2):
        write_model(root / f"step-{seed}", seed=seed, tokenizer=False)
    return root


@pytest.fixture
def folder(models: Path, tmp_path: Path) -> Path:
    """A checkpoint to be harmed."""
    return Path(shutil.copytree(models / "step-1", tmp_path / "step-1"))


@pytest.fixture
async def trainer(redis_url: str, policy: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(redis_url, policy=policy) as client:
        yield client


@pytest.fixture
async def faulty(link: Link, policy: str) -> AsyncIterator[AsyncClient]:
    """A trainer whose way to Redis can be harmed."""
    async with AsyncClient(link.url, policy=policy, reconnect_s=5) as client:
        yield client


# Checkpoints


async def test_a_checkpoint_is_announced_by_name_and_the_digest_that_workers_compute(
    trainer: AsyncClient, models: Path, queue: Queue, tmp_path: Path
) -> None:
    published = await trainer.publish_policy(3, checkpoint=models / "step-1")
    (tmp_path / "latest").symlink_to(models / "step-2")
    await trainer.publish_policy(7, checkpoint=str(tmp_path / "latest"), progress=True)

    assert [entry for entry, _ in announced(queue)] == ["3-0", "7-0"]
    first, second = (version for _, version in announced(queue))
    assert first == published
    assert (first.version, first.source, first.location) == (3, "checkpoint", "step-1")
    assert first.sha256 == digest(models / "step-1") != second.sha256
    assert second.location == "step-2", "a link's own name may be another folder tomorrow"
    assert abs(first.published_at - time.time()) < 60


def _cut(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(10_000)


def _lose_a_shard(folder: Path) -> None:
    (shard(folder) / "model-00002-of-00002.safetensors").unlink()


def _link_out(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "blob")
    (folder / "model.safetensors").symlink_to(folder.parent / "blob")


def _spoil_the_index(folder: Path) -> None:
    (shard(folder) / "model.safetensors.index.json").write_text('{"weight_map": []}')


HARMS: list[tuple[Callable[[Path], object], str]] = [
    (shutil.rmtree, "no folder"),
    (lambda folder: (folder / "model.safetensors").unlink(), "needs config.json and *.safetensors"),
    (lambda folder: (folder / "config.json").unlink(), "needs config.json and *.safetensors"),
    (_cut, "model.safetensors is not whole"),
    (_lose_a_shard, "model.safetensors.index.json names model-00002-of-00002.safetensors, which is not there"),
    (_link_out, "model.safetensors is a link out of the folder"),
    (_spoil_the_index, "model.safetensors.index.json cannot be read"),
]


@pytest.mark.parametrize(("harm", "words"), HARMS, ids=[words[:40] for _, words in HARMS])
async def test_a_checkpoint_that_is_not_whole_is_not_announced(
    trainer: AsyncClient, folder: Path, queue: Queue, harm: Callable[[Path], object], words: str
) -> None:
    harm(folder)
    with pytest.raises(CheckpointError, match="step-1") as refused:
        await trainer.publish_policy(1, checkpoint=folder)
    assert words in refused.value.problem
    assert announced(queue) == []


async def test_a_folder_whose_name_cannot_travel_is_refused(trainer: AsyncClient, folder: Path, queue: Queue) -> None:
    spaced = shutil.copytree(folder, folder.parent / "step 1")
    with pytest.raises(CheckpointError, match="checkpoint folder 'step 1'"):
        await trainer.publish_policy(1, checkpoint=spaced)
    assert announced(queue) == []


def test_files_that_change_while_they_are_read_have_no_digest(folder: Path) -> None:
    files = CheckpointFolder(folder)
    with pytest.raises(CheckpointError, match="changed while they were read"):
        files.digest(lambda _done: (folder / "config.json").touch())


# Versions


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "1", None, 2**31, 10**50])
async def test_what_is_no_version_is_refused(trainer: AsyncClient, models: Path, queue: Queue, version: Any) -> None:
    with pytest.raises(PolicyVersionError, match="an integer from 1 to 2147483647") as refused:
        await trainer.publish_policy(version, checkpoint=models / "step-1")
    assert refused.value.newest is None
    with pytest.raises(PolicyVersionError, match="an integer from 1 to 2147483647"):
        await trainer.publish_policy(version, adapter=lora(), lora_alpha=8)
    assert (announced(queue), blobs(queue)) == ([], [])


async def test_one_source_must_be_given(trainer: AsyncClient, models: Path) -> None:
    both: dict[str, Any] = {"checkpoint": models / "step-1", "adapter": lora(), "lora_alpha": 8}
    for given in ({}, both, {"checkpoint": models / "step-1", "lora_alpha": 8}, {"checkpoint": 5}):
        with pytest.raises(PolicyVersionError, match="give a folder as checkpoint=, or adapter="):
            await trainer.publish_policy(1, **given)


async def test_versions_only_grow(trainer: AsyncClient, models: Path, queue: Queue) -> None:
    await trainer.publish_policy(5, checkpoint=models / "step-1")
    for source in ({"checkpoint": models / "step-2"}, {"adapter": lora(), "lora_alpha": 8.0}):
        with pytest.raises(PolicyVersionError, match="versions only grow, and the newest is 5") as refused:
            await trainer.publish_policy(4, **cast("dict[str, Any]", source))
        assert (refused.value.newest, refused.value.taken) == (5, False)
    assert len(announced(queue)) == 1
    assert blobs(queue) == [], "what can never be announced was sent"


async def test_publishing_again_is_a_no_op_and_other_content_is_refused(
    trainer: AsyncClient, models: Path, queue: Queue
) -> None:
    first = await trainer.publish_policy(1, checkpoint=models / "step-1")
    await trainer.publish_policy(2, checkpoint=models / "step-2")
    assert await trainer.publish_policy(1, checkpoint=models / "step-1") == first
    with pytest.raises(PolicyVersionError, match="with other content: publish your weights as 3") as refused:
        await trainer.publish_policy(1, checkpoint=models / "step-2")
    assert (refused.value.newest, refused.value.taken) == (2, True)
    assert [entry for entry, _ in announced(queue)] == ["1-0", "2-0"]


async def test_unreadable_announcements_keep_their_version(trainer: AsyncClient, models: Path, queue: Queue) -> None:
    queue.redis.xadd(queue.keys.versions(), {"payload": b"\xc1 no message"}, id="5-0")
    with pytest.raises(PolicyVersionError, match="with other content: publish your weights as 6") as refused:
        await trainer.publish_policy(5, checkpoint=models / "step-1")
    assert refused.value.taken
    with pytest.raises(PolicyVersionError, match="the newest is 5"):
        await trainer.publish_policy(4, checkpoint=models / "step-1")
    await trainer.publish_policy(6, checkpoint=models / "step-1")


async def test_an_announcement_under_the_id_of_another_version_is_nobodys_own(
    trainer: AsyncClient, models: Path, queue: Queue
) -> None:
    await trainer.publish_policy(1, checkpoint=models / "step-1")
    ((_, fields),) = cast("list[tuple[bytes, Any]]", queue.redis.xrange(queue.keys.versions()))
    queue.redis.xadd(queue.keys.versions(), fields, id="2-0")
    with pytest.raises(PolicyVersionError, match="with other content"):
        await trainer.publish_policy(2, checkpoint=models / "step-1")


async def test_a_stream_that_no_trainer_wrote_is_named(trainer: AsyncClient, models: Path, queue: Queue) -> None:
    queue.redis.xadd(queue.keys.versions(), {"payload": b""})
    with pytest.raises(PolicyVersionError, match="which no trainer wrote"):
        await trainer.publish_policy(1, checkpoint=models / "step-1")


async def test_a_lost_reply_to_an_announcement_is_no_conflict(
    faulty: AsyncClient, link: Link, models: Path, queue: Queue
) -> None:
    link.lose_reply(to=b"XADD")
    published = await faulty.publish_policy(1, checkpoint=models / "step-1")
    assert link.lost == 1
    assert announced(queue) == [("1-0", published)]


@pytest.mark.parametrize("as_adapters", [False, True], ids=["checkpoints", "adapters"])
async def test_of_two_trainers_with_the_same_version_one_wins(
    trainer: AsyncClient, redis_url: str, policy: str, models: Path, queue: Queue, as_adapters: bool
) -> None:
    sources: list[dict[str, Any]] = (
        [{"adapter": lora(seed), "lora_alpha": 8} for seed in (1, 2)]
        if as_adapters
        else [{"checkpoint": models / f"step-{seed}"} for seed in (1, 2)]
    )
    async with AsyncClient(redis_url, policy=policy) as other:
        calls = (one.publish_policy(1, **source) for one, source in zip((trainer, other), sources, strict=True))
        ended = await asyncio.gather(*calls, return_exceptions=True)
    won = [one for one in ended if isinstance(one, PolicyVersion)]
    lost = [one for one in ended if isinstance(one, PolicyVersionError)]
    assert [len(won), len(lost), lost[0].taken] == [1, 1, True], ended
    assert announced(queue) == [("1-0", won[0])]


async def test_of_two_trainers_with_the_same_content_both_win(
    trainer: AsyncClient, redis_url: str, policy: str, queue: Queue
) -> None:
    async with AsyncClient(redis_url, policy=policy) as other:
        calls = [one.publish_policy(1, adapter=lora(), lora_alpha=8) for one in (trainer, other)]
        first, second = await asyncio.gather(*calls)
    assert first == second
    assert announced(queue) == [("1-0", first)]
