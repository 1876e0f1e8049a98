"""What a worker reads of the two streams, however many versions wait there and whatever else somebody wrote."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from rollstream.schemas import Keys, encode
from rollstream.schemas.wire.policies import Activation
from rollstream.transport.versions.scripts import heads
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.errors import SettingsError
from rollstream.worker.versions.announcements import Announcements
from tests.support.faults import Queue
from tests.support.weights.probes import stub_probe
from tests.support.weights.versions import BY_HAND, activate_by_hand, announce, follower_of


@pytest.fixture
def announcements(redis: Redis, policy: str) -> Announcements:
    return Announcements(redis=redis, keys=Keys(policy))


async def test_an_active_version_is_found_behind_any_number_that_nobody_activated(
    announcements: Announcements, queue: Queue
) -> None:
    announce(queue, 1, "one")
    announce(queue, 2, "two", activate=BY_HAND)
    announce(queue, 3, "three")
    for version in range(4, 60):
        announce(queue, version, "later", activate=BY_HAND)

    await announcements.read()
    assert (announcements.newest, announcements.announced) == (3, 59)
    assert [one.location for one in announcements.active] == ["three", "one"]

    activate_by_hand(queue, 20)
    await announcements.read()
    assert (announcements.newest, announcements.announced) == (20, 59)
    assert len(announcements.versions) < 30, "it keeps what it never serves"


async def test_an_activation_is_seen_though_no_version_was_announced_since(
    announcements: Announcements, queue: Queue
) -> None:
    announce(queue, 1, "one", activate=BY_HAND)
    await announcements.read()
    assert announcements.newest == 0

    activate_by_hand(queue, 1)
    await announcements.read()

    assert announcements.newest == 1


async def test_an_activated_version_whose_announcement_was_trimmed_says_so(
    announcements: Announcements, queue: Queue
) -> None:
    for version in (1, 2, 3):
        announce(queue, version, "any", activate=BY_HAND)
    activate_by_hand(queue, 2)
    queue.redis.xdel(queue.keys.versions(), "2-0", "1-0")

    await announcements.read()

    (active,) = announcements.active
    assert (active.version, "publish its weights again" in active.problem) == (2, True)


async def test_an_activation_of_a_former_stream_activates_no_other_content_under_its_number(
    announcements: Announcements, queue: Queue
) -> None:
    for version in (1, 2):
        announce(queue, version, "any", "a" * 64, activate=BY_HAND)
        activate_by_hand(queue, version)
    await announcements.read()
    assert announcements.newest == 2

    queue.redis.delete(queue.keys.versions())
    announce(queue, 1, "one", "a" * 64)
    for version in range(2, 40):
        announce(queue, version, "any", "b" * 64, activate=BY_HAND)
    await announcements.read()

    assert [one.location for one in announcements.active] == ["one"]


@pytest.mark.parametrize(
    ("entry_id", "fields"),
    [
        ("2-1", {"payload": encode(Activation(version=2, by="x", at=1.0))}),
        ("2-0", {"payload": encode(Activation(version=1, by="x", at=1.0))}),
        ("2-0", {"payload": b"\xc1"}),
        ("2-0", {"other": b""}),
        (f"{2**31}-0", {"payload": b""}),
    ],
)
async def test_what_no_script_wrote_activates_nothing(
    announcements: Announcements, queue: Queue, entry_id: str, fields: dict[str, bytes]
) -> None:
    announce(queue, 1, "one")
    announce(queue, 2, "two", activate=BY_HAND)
    queue.redis.xadd(queue.keys.activations(), fields, id=entry_id)  # type: ignore[arg-type] # redis-py's own types

    await announcements.read()

    assert announcements.newest == 1


@pytest.mark.keys_by_hand
@pytest.mark.parametrize("name", ["versions", "activations"])
async def test_a_key_that_is_no_stream_is_named_and_stops_a_start(redis: Redis, queue: Queue, name: str) -> None:
    key = getattr(queue.keys, name)()
    await redis.set(key, "no stream")
    followed = follower_of(redis, queue, StubEngine(WorkerSettings(policy="p", engine="stub")))

    with pytest.raises(SettingsError, match=f"cannot be read: .*{name} is no stream"):
        await followed.begin()
    with pytest.raises(ResponseError):
        await Announcements(redis=redis, keys=queue.keys).read()


async def test_a_look_moves_few_bytes_of_a_long_probe_and_sees_one_that_takes_the_others_place(
    redis: Redis, queue: Queue
) -> None:
    probe = stub_probe(1, rows=(list(range(5, 3005)),))
    announce(queue, 1, "one", probe=probe)
    before = await heads(redis, queue.keys)
    assert len(encode(probe)) > 20_000
    assert len(str(before)) < 10_000
    assert await heads(redis, queue.keys) == before

    queue.redis.delete(queue.keys.versions())
    announce(queue, 1, "one", probe=probe)

    after = await heads(redis, queue.keys)
    assert after != before
    assert after[1] == [], "nothing is activated"
