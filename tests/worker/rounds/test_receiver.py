"""A worker in a round: what it joins, and what ends it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from redis.asyncio import Redis

from rollstream.producer.redis_io.connection import Connection
from rollstream.schemas import encode
from rollstream.schemas.hashes.rounds import Phase, RoundField
from rollstream.schemas.wire.rounds import Place, RoundPlan
from rollstream.transport.rounds.scripts import beat_round, turn_round
from rollstream.worker.checkpoints.supply import Wanted
from rollstream.worker.engine import Prove
from rollstream.worker.errors import ProofFailedError, RoundMissedError
from rollstream.worker.rounds import membership
from rollstream.worker.rounds.receiver import RoundReceiver
from tests.support.faults import Queue
from tests.support.weights.rounds import SHA256, HeldMeeting, leader_of
from tests.worker.rounds.receiving import WANTED, Engine, Files, led, receiver_of


async def test_two_workers_receive_in_one_round_and_the_trainer_learns_it(
    connection: Connection, redis: Redis, queue: Queue, files: Files
) -> None:
    receivers = [receiver_of(redis, queue.keys, files, name) for name in ("w-1", "w-2")]
    leading = await led(leader_of(connection, queue.keys, HeldMeeting()), "w-1", "w-2")

    await asyncio.gather(*(one.receive(WANTED, "keep", None) for one in receivers))

    outcome = await leading
    assert outcome.received == ("w-1", "w-2")  # type: ignore[attr-defined]
    assert [one._engine.policy_version for one in receivers] == [1, 1]
    for one in receivers:
        await one.aclose()


@pytest.mark.parametrize("changed", [{"version": 2}, {"sha256": "00" * 32}])
async def test_the_round_of_other_content_is_not_joined(
    connection: Connection, receiver: RoundReceiver, queue: Queue, redis: Redis, changed: dict[str, object]
) -> None:
    leader = leader_of(connection, queue.keys, HeldMeeting(), join_s=0.3)
    leading = await led(leader, "w-1")
    other = Wanted(**{"version": 1, "location": "1-5a", "sha256": SHA256, **changed})  # type: ignore[arg-type]

    with pytest.raises(RoundMissedError, match="the newest is that of version 1"):
        await receiver.receive(other, "keep", None)

    assert (await leading).why == "no worker joined"  # type: ignore[attr-defined]


async def test_without_a_round_or_too_late_for_it_nothing_is_touched(
    connection: Connection, receiver: RoundReceiver, queue: Queue
) -> None:
    with pytest.raises(RoundMissedError, match="there is none"):
        await receiver.receive(WANTED, "keep", None)
    leading = await led(leader_of(connection, queue.keys, HeldMeeting()))
    await leading

    with pytest.raises(RoundMissedError, match="began before this worker"):
        await receiver.receive(WANTED, "keep", None)
    assert receiver._engine.policy_version == 0


@pytest.mark.parametrize("data", [b"", b"\x93", b"x" * 1000])
async def test_what_is_no_round_is_a_round_missed(
    receiver: RoundReceiver, queue: Queue, redis: Redis, data: bytes
) -> None:
    await redis.set(queue.keys.round_call(), data, ex=60)

    with pytest.raises(RoundMissedError, match="cannot be read"):
        await receiver.receive(WANTED, "keep", None)


async def test_a_plan_that_somebody_else_wrote_is_not_followed(
    connection: Connection, receiver: RoundReceiver, queue: Queue, redis: Redis
) -> None:
    leader = leader_of(connection, queue.keys, HeldMeeting())
    await leader.open()
    receiving = asyncio.create_task(receiver.receive(WANTED, "keep", None))
    async with asyncio.timeout(5):
        while not (await beat_round(redis, queue.keys, leader._epoch)).members:  # noqa: ASYNC110 - Redis tells nobody
            await asyncio.sleep(0.02)
    foreign = RoundPlan(epoch="f" * 16, places=(Place(consumer="w-1", first_rank=1, ranks=1),), meeting=b"h:1")
    await turn_round(redis, queue.keys, leader._epoch, Phase.SENDING, plan=encode(foreign))

    with pytest.raises(RoundMissedError, match="another round"):
        await receiving


async def test_a_trainer_that_dies_ends_the_wait(
    connection: Connection, receiver: RoundReceiver, queue: Queue, redis: Redis
) -> None:
    leader = leader_of(connection, queue.keys, HeldMeeting(), join_s=30)
    await leader.open()  # and beats no more
    await redis.hset(queue.keys.round(), RoundField.AT, 1)

    with pytest.raises(RoundMissedError, match="its trainer died"):
        await asyncio.wait_for(receiver.receive(WANTED, "keep", None), 5)


async def test_a_trainer_that_dies_while_it_sends_is_told_to_the_engine(
    connection: Connection, receiver: RoundReceiver, queue: Queue, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = asyncio.Event()

    async def receive(_self: object, *given: object) -> float:
        waiting.set()
        over = given[-1]
        assert isinstance(over, asyncio.Event)
        await over.wait()
        raise RoundMissedError("the round was broken off")

    monkeypatch.setattr(Engine, "receive", receive)
    meeting = HeldMeeting(held=True)
    leading = await led(leader_of(connection, queue.keys, meeting), "w-1")
    receiving = asyncio.create_task(receiver.receive(WANTED, "keep", None))
    await asyncio.wait_for(waiting.wait(), 5)

    leading.cancel()
    await redis.hset(queue.keys.round(), RoundField.AT, 1)

    with pytest.raises(RoundMissedError):
        await asyncio.wait_for(receiving, 5)
    await asyncio.gather(leading, return_exceptions=True)


async def test_a_failed_proof_is_the_workers_own_affair(
    connection: Connection, receiver: RoundReceiver, queue: Queue
) -> None:
    async def fails(_score: object) -> None:
        raise ProofFailedError(1, "7 nats off")

    prove: Prove = fails
    leading = await led(leader_of(connection, queue.keys, HeldMeeting()), "w-1")

    with pytest.raises(ProofFailedError):
        await receiver.receive(WANTED, "keep", prove)

    assert (await leading).received == ()  # type: ignore[attr-defined]
    assert receiver._engine.policy_version == 0


async def test_who_leaves_a_round_beats_no_more_although_redis_py_loses_a_cancellation(
    receiver: RoundReceiver, connection: Connection, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would never be out of it, and the trainer would wait for a member that seems to live."""
    beat = beat_round

    async def loses_it(*args: object) -> object:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.05)
        return await beat(*args)  # type: ignore[arg-type] # as it was called

    monkeypatch.setattr(membership, "beat_round", loses_it)
    monkeypatch.setattr(membership, "BEAT_S", 0.0)  # so that it is left in the middle of a beat
    leading = await led(leader_of(connection, queue.keys, HeldMeeting()), "w-1")

    receiving = asyncio.create_task(receiver.receive(WANTED, "keep", None))
    left, _ = await asyncio.wait([receiving], timeout=5)

    receiving.cancel()
    assert left
    assert (await leading).received == ("w-1",)  # type: ignore[attr-defined]


async def test_while_redis_is_away_the_round_goes_on(
    connection: Connection, receiver: RoundReceiver, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not known ends nothing; the time limit of the round does."""
    from redis.exceptions import ConnectionError as RedisConnectionError

    beat, calls = beat_round, [0]

    async def sometimes(*args: object) -> object:
        calls[0] += 1
        if calls[0] in (2, 3):
            raise RedisConnectionError("away")
        return await beat(*args)  # type: ignore[arg-type] # as it was called

    monkeypatch.setattr(membership, "beat_round", sometimes)
    leading = await led(leader_of(connection, queue.keys, HeldMeeting(), join_s=0.5), "w-1", "w-2")

    await receiver.receive(WANTED, "keep", None)

    assert (await leading).received == ("w-1",)  # type: ignore[attr-defined]
    assert calls[0] > 3
