"""Going back is announcing the content of an older version under a new number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rollstream import AsyncClient, PolicyVersion, PolicyVersionError, ProbeError
from rollstream.producer.probes.probe_of import probe_of
from rollstream.schemas import encode
from tests.support.faults import Queue
from tests.support.weights.publishing import announced, blobs, lora, manifests, ttl
from tests.support.weights.versions import announce

ROW = list(range(5, 22))
PROBE = probe_of([ROW], [[-1.0] * 16], vocab_size=512)


async def test_an_older_versions_weights_are_announced_once_more(
    trainer: AsyncClient, models: Path, queue: Queue
) -> None:
    first = await trainer.publish_policy(1, checkpoint=models / "step-1", probe=PROBE)
    await trainer.publish_policy(2, checkpoint=models / "step-2")
    again = await trainer.publish_policy(3, again=1, activate="by_hand")
    assert (again.location, again.sha256, again.probe, again.source) == ("step-1", first.sha256, PROBE, "checkpoint")
    assert (again.version, again.activate.when, again.requires) == (3, "by_hand", ("activate", "probe"))
    assert again.published_at > first.published_at
    assert await trainer.publish_policy(3, again=1) == again == announced(queue)[-1][1]


async def test_another_probe_takes_the_old_ones_place(trainer: AsyncClient, models: Path) -> None:
    other = probe_of([ROW], [[-2.0] * 16], vocab_size=512)
    await trainer.publish_policy(1, checkpoint=models / "step-1", probe=PROBE)
    assert (await trainer.publish_policy(2, again=1, probe=other)).probe == other


async def test_a_probe_of_another_vocabulary_than_the_old_ones_is_refused(
    trainer: AsyncClient, models: Path, queue: Queue
) -> None:
    other = probe_of([ROW], [[-1.0] * 16], vocab_size=500)
    await trainer.publish_policy(1, checkpoint=models / "step-1", probe=PROBE)
    with pytest.raises(ProbeError, match="of a vocabulary of 500, and that of version 1 of 512: make it with"):
        await trainer.publish_policy(2, again=1, probe=other)
    assert [one.version for _, one in announced(queue)] == [1]


async def test_terms_that_an_announced_version_does_not_take_any_more_are_told(
    trainer: AsyncClient, models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await trainer.publish_policy(1, checkpoint=models / "step-1", activate="by_hand")
    await trainer.publish_policy(1, checkpoint=models / "step-1", activate="by_hand")
    assert not [one for one in caplog.records if "announced already" in one.message]
    await trainer.publish_policy(1, checkpoint=models / "step-1", probe=PROBE)
    assert "policy version 1 is announced already, with another probe= and another activate=" in caplog.text


async def test_what_came_from_gpu_to_gpu_is_taken_from_the_store(trainer: AsyncClient, queue: Queue) -> None:
    sent = PolicyVersion(
        version=1, source="checkpoint", location="v1", sha256="0" * 64, published_at=0.0, transport="nccl", base=None
    )
    queue.redis.xadd(queue.keys.versions(), {"payload": encode(sent)}, id="1-0")
    again = await trainer.publish_policy(2, again=1)
    assert (again.location, again.transport, again.requires) == ("v1", "store", ("store",))


async def test_an_adapter_that_would_expire_stays(trainer: AsyncClient, queue: Queue) -> None:
    await trainer.publish_policy(1, adapter=lora(1), lora_alpha=8)
    kept = [*blobs(queue), *manifests(queue)]
    await trainer.publish_policy(2, adapter=lora(2), lora_alpha=8)
    assert max(ttl(queue, key) for key in kept) < 7200
    await trainer.publish_policy(3, again=1)
    assert min(ttl(queue, key) for key in kept) > 80_000


@pytest.mark.parametrize("lost", ["manifest", "chunk"])
async def test_an_adapter_that_is_gone_is_not_announced(trainer: AsyncClient, queue: Queue, lost: str) -> None:
    await trainer.publish_policy(1, adapter=lora(1), lora_alpha=8)
    queue.redis.delete(*(manifests(queue) if lost == "manifest" else blobs(queue)))
    with pytest.raises(PolicyVersionError, match="Redis has the adapter of version 1 no more"):
        await trainer.publish_policy(2, again=1)
    assert [entry_id for entry_id, _ in announced(queue)] == ["1-0"]


async def test_what_the_stream_has_no_more_is_refused(trainer: AsyncClient, models: Path, queue: Queue) -> None:
    await trainer.publish_policy(2, checkpoint=models / "step-1")
    with pytest.raises(PolicyVersionError, match="3 cannot be published: version 1 is not in the versions stream any"):
        await trainer.publish_policy(3, again=1)
    queue.redis.xadd(queue.keys.versions(), {"payload": b"\xc1"}, id="3-0")
    with pytest.raises(PolicyVersionError, match="publish its weights themselves"):
        await trainer.publish_policy(4, again=3)
    assert queue.redis.xlen(queue.keys.versions()) == 2


async def test_what_a_newer_release_requires_is_not_lost(trainer: AsyncClient, queue: Queue) -> None:
    announce(queue, 1, "step-1", requires=("quantised_kv",))
    with pytest.raises(PolicyVersionError, match="1 cannot be announced again: it requires quantised_kv, which"):
        await trainer.publish_policy(2, again=1)
    assert queue.redis.xlen(queue.keys.versions()) == 1


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"again": 1, "checkpoint": "x"}, "checkpoint= gives other weights than again=1"),
        ({"again": 1, "adapter": lora(), "lora_alpha": 8}, "adapter= gives other weights"),
        ({"again": 0}, "an integer from 1 to"),
        ({"again": True}, "an integer from 1 to"),
    ],
    ids=str,
)
async def test_it_is_a_source_like_the_others(trainer: AsyncClient, given: dict[str, Any], told: str) -> None:
    with pytest.raises(PolicyVersionError, match=told):
        await trainer.publish_policy(2, **given)
