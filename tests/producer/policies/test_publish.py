"""Policy versions only grow, are of one kind, and none is announced twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from rollstream import AsyncClient, PolicyKindError, PolicyVersion, PolicyVersionError
from tests.support.faults import Link, Queue
from tests.support.weights.publishing import announced, blobs, lora, restore, until_cut


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "1", None, 2**31, 10**50])
async def test_what_is_no_version_is_refused(trainer: AsyncClient, models: Path, queue: Queue, version: Any) -> None:
    with pytest.raises(PolicyVersionError, match="an integer from 1 to 2147483647") as refused:
        await trainer.publish_policy(version, checkpoint=models / "step-1")
    assert refused.value.newest is None
    for given in ({"adapter": lora(), "lora_alpha": 8}, {"adapter": lora()}, {}):
        with pytest.raises(PolicyVersionError, match="an integer from 1 to 2147483647"):
            await trainer.publish_policy(version, **cast("dict[str, Any]", given))
    assert (announced(queue), blobs(queue)) == ([], [])


SOURCES: list[tuple[dict[str, Any], str]] = [
    ({}, "not neither"),
    ({"lora_alpha": 8}, "not neither"),
    ({"checkpoint": "step-1", "adapter": lora(), "lora_alpha": 8}, "not both"),
    ({"checkpoint": "step-1", "adapter": 5}, "not both"),
    ({"checkpoint": 5}, "checkpoint= is a folder's path, not some int"),
    ({"checkpoint": b"step-1"}, "checkpoint= is a folder's path, not some bytes"),
    ({"checkpoint": "step-1", "lora_alpha": 8}, "leave it out beside checkpoint="),
]


@pytest.mark.parametrize(("given", "words"), SOURCES, ids=[f"{n} {words}" for n, (_, words) in enumerate(SOURCES)])
async def test_one_source_must_be_given(trainer: AsyncClient, queue: Queue, given: dict[str, Any], words: str) -> None:
    with pytest.raises(PolicyVersionError, match=words):
        await trainer.publish_policy(1, **given)
    assert announced(queue) == []


@pytest.mark.parametrize("first", ["checkpoint", "adapter"])
async def test_a_policy_is_published_as_one_kind(trainer: AsyncClient, models: Path, queue: Queue, first: str) -> None:
    sources: dict[str, dict[str, Any]] = {
        "checkpoint": {"checkpoint": models / "step-1"},
        "adapter": {"adapter": lora(), "lora_alpha": 8},
    }
    before = await trainer.publish_policy(1, **sources[first])
    queue.redis.xadd(queue.keys.versions(), {"payload": b"\xc1 no message"}, id="2-0")
    kept = blobs(queue)
    (other,) = sources.keys() - {first}

    with pytest.raises(PolicyKindError, match="adapter belongs to the model that workers boot with") as refused:
        await trainer.publish_policy(3, **sources[other])

    assert f"Publish every version as {first}, or" in str(refused.value)
    error = refused.value
    assert (error.version, error.source, error.newest, error.newest_source) == (3, other, 1, first)
    assert blobs(queue) == kept, "what can never be announced was sent"
    assert (await trainer.publish_policy(1, **sources[first])) == before
    assert (await trainer.publish_policy(3, **sources[first])).version == 3


async def test_the_kind_is_looked_at_again_once_all_is_sent(
    faulty: AsyncClient, link: Link, trainer: AsyncClient, models: Path, queue: Queue
) -> None:
    link.cut_after(6 * 2**20)
    adapter = asyncio.create_task(faulty.publish_policy(2, adapter=lora(width=2**18), lora_alpha=8))
    await until_cut(link)
    await trainer.publish_policy(1, checkpoint=models / "step-1")
    restore(link)
    with pytest.raises(PolicyKindError):
        await adapter
    assert [version.version for _, version in announced(queue)] == [1]


async def test_versions_only_grow(trainer: AsyncClient, models: Path, queue: Queue) -> None:
    await trainer.publish_policy(5, checkpoint=models / "step-1")
    for source in ({"checkpoint": models / "step-2"}, {"adapter": lora(), "lora_alpha": 8.0}):
        with pytest.raises(
            PolicyVersionError, match="only grow, and the newest is 5: publish your weights as 6"
        ) as refused:
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


async def test_the_last_version_there_is_is_not_followed_by_advice_that_cannot_be_taken(
    trainer: AsyncClient, models: Path, queue: Queue
) -> None:
    await trainer.publish_policy(2**31 - 1, checkpoint=models / "step-1")
    for version in (2**31 - 1, 2**31 - 2):
        with pytest.raises(
            PolicyVersionError, match="the last that there is, start workers and trainer under"
        ) as refused:
            await trainer.publish_policy(version, checkpoint=models / "step-2")
        assert "publish your weights as" not in str(refused.value)
    assert len(announced(queue)) == 1


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
