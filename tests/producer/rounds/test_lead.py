"""How a trainer leads a round: who is in, what ends it, and that a round which ended is never taken up again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import torch
from redis.asyncio import Redis

from rollstream.producer.redis_io.connection import Connection
from rollstream.producer.rounds import lead
from rollstream.producer.rounds.errors import RoundRefusedError
from rollstream.producer.rounds.outgoing import Outgoing
from rollstream.schemas import Keys, decode
from rollstream.schemas.hashes.rounds import Did, Phase, RoundField, RoundState
from rollstream.schemas.wire.rounds import Round, RoundPlan
from rollstream.transport.rounds.scripts import beat_round, called, join_round
from tests.support.faults import Queue
from tests.support.weights.rounds import HeldMeeting, leader_of


@pytest.fixture
async def connection(redis_url: str) -> AsyncIterator[Connection]:
    connection = Connection(access=redis_url, reconnect_s=5)
    yield connection
    await connection.aclose()


async def call_of(redis: Redis, keys: Keys) -> Round:
    return decode(await called(redis, keys), Round)


async def until(redis: Redis, keys: Keys, epoch: str, phase: Phase, *beating: str) -> RoundState:
    """Beat for members until the round has this phase."""
    async with asyncio.timeout(10):
        while True:
            for name in beating:
                await beat_round(redis, keys, epoch, name)
            state = await beat_round(redis, keys, epoch, "nobody")
            if state.phase == phase:
                return state
            await asyncio.sleep(0.02)


async def test_all_that_joined_are_in_with_ranks_of_their_own_and_the_round_ends_with_the_last(
    connection: Connection, queue: Queue, redis: Redis
) -> None:
    meeting, keys = HeldMeeting(), queue.keys
    leader = leader_of(connection, keys, meeting)
    await leader.open()
    epoch = (await call_of(redis, keys)).epoch
    leading = asyncio.create_task(leader.lead(frozenset({"a", "b"})))
    assert await join_round(redis, keys, epoch, "b", 2)
    assert await join_round(redis, keys, epoch, "a", 1)

    state = await until(redis, keys, epoch, Phase.SENDING, "a", "b")
    plan = decode(state.plan, RoundPlan)
    assert [(one.consumer, one.first_rank, one.ranks) for one in plan.places] == [("a", 1, 1), ("b", 2, 2)]
    assert (plan.world_size, plan.meeting) == (4, meeting.place)
    await beat_round(redis, keys, epoch, "a", Did.RECEIVED)
    await beat_round(redis, keys, epoch, "b", Did.RECEIVED)

    outcome = await leading
    assert (outcome.received, outcome.why, meeting.world_size) == (("a", "b"), "", 4)
    assert (await beat_round(redis, keys, epoch)).phase == Phase.DONE
    assert not await join_round(redis, keys, epoch, "c", 1)


async def test_who_is_late_is_left_out(connection: Connection, queue: Queue, redis: Redis) -> None:
    leader = leader_of(connection, queue.keys, HeldMeeting(), join_s=0.3)
    await leader.open()
    epoch = (await call_of(redis, queue.keys)).epoch
    await join_round(redis, queue.keys, epoch, "in-time", 1)
    leading = asyncio.create_task(leader.lead(frozenset({"in-time", "late"})))
    await until(redis, queue.keys, epoch, Phase.SENDING, "in-time")

    assert not await join_round(redis, queue.keys, epoch, "late", 1)
    await beat_round(redis, queue.keys, epoch, "in-time", Did.RECEIVED)
    assert (await leading).received == ("in-time",)


async def test_a_round_that_nobody_joins_is_over(connection: Connection, queue: Queue, redis: Redis) -> None:
    leader = leader_of(connection, queue.keys, HeldMeeting(), join_s=0.1)
    await leader.open()

    outcome = await leader.lead(frozenset({"late"}))

    assert (outcome.received, outcome.why) == ((), "no worker joined")
    epoch = (await call_of(redis, queue.keys)).epoch
    assert (await beat_round(redis, queue.keys, epoch)).phase == Phase.BROKEN


@pytest.mark.parametrize("did", [Did.FAILED, None])
async def test_a_member_that_gives_up_or_dies_ends_the_round_for_all(
    connection: Connection, queue: Queue, redis: Redis, monkeypatch: pytest.MonkeyPatch, did: Did | None
) -> None:
    monkeypatch.setattr(lead, "STALE_MS", 600)
    meeting = HeldMeeting(held=True)
    leader = leader_of(connection, queue.keys, meeting)
    await leader.open()
    epoch = (await call_of(redis, queue.keys)).epoch
    for name in ("a", "b"):
        await join_round(redis, queue.keys, epoch, name, 1)
    leading = asyncio.create_task(leader.lead(frozenset({"a", "b"})))
    await asyncio.to_thread(meeting.made.broadcasting.wait, 10)
    if did is not None:
        await beat_round(redis, queue.keys, epoch, "b", did)

    state = await until(redis, queue.keys, epoch, Phase.BROKEN, "a")  # b beats no more

    outcome = await leading
    assert outcome.received == ()
    assert outcome.why == state.why == ("worker b gave up" if did else "worker b is gone")
    assert meeting.made.aborted


async def test_one_that_fails_after_all_was_sent_is_out_alone(
    connection: Connection, queue: Queue, redis: Redis
) -> None:
    meeting = HeldMeeting()
    leader = leader_of(connection, queue.keys, meeting)
    await leader.open()
    epoch = (await call_of(redis, queue.keys)).epoch
    for name in ("a", "b"):
        await join_round(redis, queue.keys, epoch, name, 1)
    leading = asyncio.create_task(leader.lead(frozenset({"a", "b"})))
    await asyncio.to_thread(meeting.made.closed.wait, 10)
    await beat_round(redis, queue.keys, epoch, "nobody")
    await beat_round(redis, queue.keys, epoch, "a", Did.RECEIVED)
    await beat_round(redis, queue.keys, epoch, "b", Did.FAILED)

    outcome = await leading
    assert (outcome.received, outcome.why) == (("a",), "")


async def test_a_trainer_that_is_cancelled_breaks_off(connection: Connection, queue: Queue, redis: Redis) -> None:
    meeting = HeldMeeting(held=True)
    leader = leader_of(connection, queue.keys, meeting)
    await leader.open()
    epoch = (await call_of(redis, queue.keys)).epoch
    await join_round(redis, queue.keys, epoch, "a", 1)
    leading = asyncio.create_task(leader.lead(frozenset({"a"})))
    await asyncio.to_thread(meeting.made.broadcasting.wait, 10)

    leading.cancel()

    with pytest.raises(asyncio.CancelledError):
        await leading
    assert meeting.made.aborted


async def test_two_trainers_do_not_send_at_once_and_a_dead_ones_round_stops_nobody(
    connection: Connection, queue: Queue, redis: Redis
) -> None:
    await leader_of(connection, queue.keys, HeldMeeting()).open()

    with pytest.raises(RoundRefusedError, match="another round"):
        await leader_of(connection, queue.keys, HeldMeeting()).open()

    await redis.hset(queue.keys.round(), RoundField.AT, 1)
    await leader_of(connection, queue.keys, HeldMeeting(), version=2).open()
    assert (await call_of(redis, queue.keys)).version == 2


async def test_names_and_ranks_that_no_worker_wrote_are_no_members(
    connection: Connection, queue: Queue, redis: Redis
) -> None:
    leader = leader_of(connection, queue.keys, HeldMeeting(), join_s=0.1)
    await leader.open()
    epoch = (await call_of(redis, queue.keys)).epoch
    for name, ranks in (("../up", 1), ("none", 0), ("many", 10**9), ("words", 1)):
        await join_round(redis, queue.keys, epoch, name, ranks)
    await redis.hset(queue.keys.round(), RoundField.RANKS.of("words"), "two")

    assert (await leader.lead(frozenset())).why == "no worker joined"


def test_what_is_sent_is_told_as_it_is() -> None:
    tensors = {"a.weight": torch.zeros(3, 2, dtype=torch.bfloat16), "b.bias": torch.zeros(5)}

    sent = Outgoing(tensors=tensors, backend="gloo").sent

    assert (sent.names, sent.dtypes) == (("a.weight", "b.bias"), ("bfloat16", "float32"))
    assert (sent.shapes, sent.num_bytes) == (((3, 2), (5,)), 32)


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.zeros(2, dtype=torch.int8), "tensor w is int8"),
        (torch.zeros(2, device="meta"), "no data"),
        (torch.zeros(0), "empty"),
    ],
)
def test_what_no_round_takes_is_refused_by_name(tensor: torch.Tensor, said: str) -> None:
    with pytest.raises(RoundRefusedError, match=said):
        Outgoing(tensors={"w": tensor}, backend="gloo")


def test_a_trainer_without_a_gpu_cannot_send_by_nccl() -> None:
    with pytest.raises(RoundRefusedError, match="torch sees none"):
        Outgoing(tensors={"w": torch.zeros(2)}, backend="nccl")
