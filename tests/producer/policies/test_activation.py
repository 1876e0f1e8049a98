"""An announced version becomes the one to serve by its announcement or by an activation, and nothing takes it back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from rollstream import Activate, ActivationError, AsyncClient, Client
from rollstream.schemas import Activation, Keys, decode, encode
from rollstream.transport.weights import is_chunk, store_of
from tests.support.faults import Queue
from tests.support.weights.versions import announce


async def publish(trainer: AsyncClient, models: Path, version: int, activate: Any = "by_hand") -> None:
    await trainer.publish_policy(version, checkpoint=models / "step-1", activate=activate)


def activations(queue: Queue) -> list[tuple[str, Activation]]:
    entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", queue.redis.xrange(queue.keys.activations()))
    return [(entry_id.decode(), decode(fields[b"payload"], Activation)) for entry_id, fields in entries]


async def both(trainer: AsyncClient) -> tuple[int, int]:
    return await trainer.newest_version(), await trainer.announced_version()


async def test_the_newest_version_is_the_newest_active_one(trainer: AsyncClient, models: Path) -> None:
    assert await both(trainer) == (0, 0)
    await publish(trainer, models, 1, "at_once")
    assert await both(trainer) == (1, 1)
    await publish(trainer, models, 2)
    await publish(trainer, models, 3, Activate(when="when_prepared"))
    assert await both(trainer) == (1, 3)
    await trainer.activate(2)
    assert await both(trainer) == (2, 3)
    await publish(trainer, models, 4, "at_once")
    await publish(trainer, models, 5)
    assert await both(trainer) == (4, 5)


async def test_an_activation_is_written_once_with_who_did_it(trainer: AsyncClient, models: Path, queue: Queue) -> None:
    await publish(trainer, models, 2)
    before = time.time()
    await trainer.activate(2, by="ann@console")
    await trainer.activate(2, by="somebody else")
    ((entry_id, activation),) = activations(queue)
    assert (entry_id, activation.version, activation.by) == ("2-0", 2, "ann@console")
    assert before <= activation.at <= time.time()


def test_the_blocking_client_activates_too_and_names_its_process(client: Client, models: Path, queue: Queue) -> None:
    client.publish_policy(1, checkpoint=models / "step-1", activate="by_hand")
    client.activate(1)
    assert (client.newest_version(), client.announced_version()) == (1, 1)
    ((_, activation),) = activations(queue)
    assert activation.by.rpartition(":")[2].isdecimal()


async def test_what_was_not_announced_cannot_be_activated(trainer: AsyncClient, models: Path, queue: Queue) -> None:
    await publish(trainer, models, 2)
    with pytest.raises(ActivationError, match="3 cannot be activated: nobody has announced it, the newest is 2"):
        await trainer.activate(3)
    queue.redis.xdel(queue.keys.versions(), "2-0")
    await publish(trainer, models, 4)
    with pytest.raises(ActivationError, match="the stream has it no more: publish its weights first"):
        await trainer.activate(2)
    assert activations(queue) == []


@pytest.mark.parametrize("lost", ["manifest", "chunk"])
async def test_what_the_weight_store_has_no_more_is_not_activated(
    redis_url: str, policy: str, tmp_path: Path, queue: Queue, lost: str
) -> None:
    store = store_of(tmp_path, Keys(policy))
    async with AsyncClient(redis_url, policy=policy, weights=tmp_path) as client:
        for version in (1, 2):
            await client.publish_policy(version, state_dict={"w": torch.full((8,), 1.0 * version)}, activate="by_hand")
        gone = [one.name for one in await store.items() if is_chunk(one.name) == (lost == "chunk")]
        await client.activate(1)
        await store.delete(gone)
        with pytest.raises(ActivationError, match=r"2 cannot be activated: .* has its weights no more .*publish"):
            await client.activate(2)
    assert [entry_id for entry_id, _ in activations(queue)] == ["1-0"]


async def test_nothing_goes_back_behind_an_active_version(trainer: AsyncClient, models: Path, queue: Queue) -> None:
    for version in (1, 2, 3, 4):
        await publish(trainer, models, version)
    await trainer.activate(2)
    with pytest.raises(ActivationError, match=r"2 was activated, and versions only.*publish 5 --again 1") as late:
        await trainer.activate(1)
    assert (late.value.version, late.value.newest) == (1, 2)
    await publish(trainer, models, 5, "at_once")
    with pytest.raises(ActivationError, match="5 was activated"):
        await trainer.activate(4)
    assert [version for version, _ in activations(queue)] == ["2-0"]
    with pytest.raises(ActivationError, match=r"5 was activated.*publish 6 --again 2"):
        await trainer.activate(2)  # it was active once, and is no more
    await trainer.activate(5)


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "1", None, 2**31])
async def test_what_is_no_version_is_not_activated(trainer: AsyncClient, version: Any) -> None:
    with pytest.raises(ActivationError, match="an integer from 1 to 2147483647"):
        await trainer.activate(version)


@pytest.mark.parametrize("by", ["", "x" * 201, 5])
async def test_a_name_has_a_length(trainer: AsyncClient, models: Path, by: Any) -> None:
    await publish(trainer, models, 1)
    with pytest.raises(ActivationError, match="by= names who does it"):
        await trainer.activate(1, by=by)


async def test_many_versions_that_nobody_activated_hide_no_active_one(trainer: AsyncClient, models: Path) -> None:
    await publish(trainer, models, 1, "at_once")
    for version in range(2, 40):
        await publish(trainer, models, version)
    assert await both(trainer) == (1, 39)
    await trainer.activate(3)
    assert await both(trainer) == (3, 39)


async def test_activations_of_a_stream_that_is_gone_say_nothing(
    trainer: AsyncClient, models: Path, queue: Queue
) -> None:
    await publish(trainer, models, 9)
    await trainer.activate(9)
    queue.redis.delete(queue.keys.versions())
    assert await both(trainer) == (0, 0)
    await publish(trainer, models, 2, "at_once")
    assert await both(trainer) == (2, 2)


async def test_an_activation_of_other_content_under_its_number_says_nothing(
    trainer: AsyncClient, models: Path, queue: Queue
) -> None:
    for version in (1, 2, 3):
        announce(queue, version, "step-1", "a" * 64, activate=Activate(when="by_hand"))
    await trainer.activate(2)
    queue.redis.delete(queue.keys.versions())
    announce(queue, 1, "step-2", "b" * 64)
    for version in (2, 3):
        announce(queue, version, "step-2", "b" * 64, activate=Activate(when="by_hand"))

    assert await both(trainer) == (1, 3)
    await trainer.activate(2)

    assert await both(trainer) == (2, 3)
    assert [one.sha256 for _, one in activations(queue)] == ["b" * 64]


async def test_a_new_stream_of_versions_begins_without_activations(
    trainer: AsyncClient, models: Path, queue: Queue
) -> None:
    await publish(trainer, models, 1)
    await trainer.activate(1)
    queue.redis.delete(queue.keys.versions())
    await publish(trainer, models, 1)  # the same content, which nobody has activated
    assert await both(trainer) == (0, 1)


async def test_an_activation_counts_though_its_announcement_is_gone(
    trainer: AsyncClient, models: Path, queue: Queue
) -> None:
    for version in (1, 2, 3):
        await publish(trainer, models, version, "at_once" if version == 1 else "by_hand")
    await trainer.activate(2)
    queue.redis.xdel(queue.keys.versions(), "2-0")
    assert await both(trainer) == (2, 3)


async def test_what_no_script_wrote_is_no_activation(trainer: AsyncClient, models: Path, queue: Queue) -> None:
    await publish(trainer, models, 1)
    await publish(trainer, models, 2)
    queue.redis.xadd(queue.keys.activations(), {"payload": b"\xc1"}, id="1-0")
    other = Activation(version=1, by="x", at=0.0)
    queue.redis.xadd(queue.keys.activations(), {"payload": encode(other)}, id="2-0")
    assert await both(trainer) == (0, 2)


async def test_an_announcement_that_cannot_be_read_counts_as_workers_count_it(
    trainer: AsyncClient, models: Path, queue: Queue
) -> None:
    await publish(trainer, models, 1, "at_once")
    announce(queue, 2, "step-1", says=7)
    queue.redis.xadd(queue.keys.versions(), {"payload": b""}, id="2-5")
    assert await trainer.newest_version() == 2
