"""A worker in a round: what it joins, what ends it, and that a version which was missed comes from its files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from rollstream.producer.redis_io.connection import Connection
from rollstream.producer.rounds.lead import RoundLeader
from rollstream.schemas import Keys, encode
from rollstream.schemas.rounds import Phase, RoundField
from rollstream.schemas.wire.rounds import Place, RoundPlan
from rollstream.transport.rounds.scripts import beat_round, turn_round
from rollstream.worker.checkpoints.supply import CheckpointSupply, Prepared, Wanted
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engine import Incoming, Prove
from rollstream.worker.engines.stub import StubEngine
from rollstream.worker.errors import NotInStoreError, ProofFailedError, RoundMissedError, VersionRefusedError
from rollstream.worker.rounds import membership, way_back
from rollstream.worker.rounds.receiver import RoundReceiver
from rollstream.worker.weights.checkpoint import Content
from tests.support.faults import Queue
from tests.support.weights.rounds import SHA256, HeldMeeting, leader_of
from tests.support.worker_process import until_true

WANTED = Wanted(version=1, location="1-5a", sha256=SHA256, transport="store")


class Files(CheckpointSupply):
    """A store whose files come when the test says so."""

    def __init__(self) -> None:
        super().__init__(folder=None)
        self.here = asyncio.Event()
        self.refuses: Exception | None = None
        self.asked = 0

    async def prepare(self, wanted: Wanted) -> Prepared:
        self.asked += 1
        await self.here.wait()
        if self.refuses is not None:
            raise self.refuses
        return Prepared(folder=Path("/there"), content=Content(files=(), sha256=wanted.sha256))


class Engine(StubEngine):
    """Notes where the files of what it serves are."""

    def __init__(self) -> None:
        super().__init__(WorkerSettings(policy="p", engine="stub", weight_transfer="gloo", weights="redis"))
        self.folder: Path | None = None
        self.lost_version: int | None = None

    async def link(self, _incoming: Incoming, _over: asyncio.Event) -> None:
        self._link = HeldMeeting().link(2)

    async def located(self, _version: int, path: Path, _content: Content) -> None:
        self.folder = path

    async def lost(self, version: int) -> None:
        self.lost_version = version


@pytest.fixture
async def connection(redis_url: str) -> AsyncIterator[Connection]:
    connection = Connection(access=redis_url, reconnect_s=5)
    yield connection
    await connection.aclose()


@pytest.fixture
async def files() -> Files:
    return Files()


@pytest.fixture
async def receiver(redis: Redis, queue: Queue, files: Files) -> AsyncIterator[RoundReceiver]:
    receiver = receiver_of(redis, queue.keys, files)
    yield receiver
    await receiver.aclose()


def receiver_of(redis: Redis, keys: Keys, files: Files, consumer: str = "w-1") -> RoundReceiver:
    return RoundReceiver(redis=redis, keys=keys, consumer=consumer, backend="gloo", engine=Engine(), checkpoints=files)


async def led(leader: RoundLeader, *expected: str) -> asyncio.Task[object]:
    await leader.open()
    return asyncio.create_task(leader.lead(frozenset(expected)))


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


async def test_no_other_round_is_joined_before_the_files_of_the_last_are_here(
    connection: Connection, receiver: RoundReceiver, queue: Queue, files: Files
) -> None:
    leading = await led(leader_of(connection, queue.keys, HeldMeeting()), "w-1")
    await receiver.receive(WANTED, "keep", None)
    await leading
    second = Wanted(version=2, location="2-5a", sha256=SHA256, transport="store")

    with pytest.raises(RoundMissedError, match="not here yet"):
        await receiver.receive(second, "keep", None)

    files.here.set()
    await until_true(lambda: not receiver.stamp())
    assert receiver._engine.folder == Path("/there")  # type: ignore[attr-defined]
    leading = await led(leader_of(connection, queue.keys, HeldMeeting(), version=2), "w-1")
    await receiver.receive(second, "keep", None)
    assert (await leading).received == ("w-1",)  # type: ignore[attr-defined]


@pytest.fixture
async def received(
    connection: Connection, receiver: RoundReceiver, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> RoundReceiver:
    """It serves version 1, which came in a round; nothing is waited for long."""
    monkeypatch.setattr(way_back, "FIRST_TRY_S", 0.01)
    leading = await led(leader_of(connection, queue.keys, HeldMeeting()), "w-1")
    await receiver.receive(WANTED, "keep", None)
    await leading
    return receiver


async def test_files_that_come_later_than_the_round_are_asked_for_again_and_meanwhile_no_other_version_is_loaded(
    received: RoundReceiver, files: Files
) -> None:
    files.refuses = VersionRefusedError("the store does not answer")
    files.here.set()
    with pytest.raises(VersionRefusedError, match="no files are here yet of version 1, to go back to: the store does"):
        await received.check_way_back()
    await until_true(lambda: files.asked >= 3)
    before = received.stamp()
    with pytest.raises(RoundMissedError, match="not here yet"):
        await received.receive(Wanted(version=2, location="2-5a", sha256=SHA256), "keep", None)

    files.refuses = None
    await until_true(lambda: not received.stamp())

    await received.check_way_back()
    assert before, "a refusal is not looked at again once the files are here"
    assert received._engine.folder == Path("/there")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "error", [VersionRefusedError("no answer"), NotInStoreError("not in it")], ids=["away", "lacks"]
)
async def test_only_what_a_store_lacks_for_long_is_gone_for_good_and_then_others_may_be_loaded(
    received: RoundReceiver, files: Files, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(way_back, "GONE_AFTER_S", 0.1)
    files.refuses = error
    files.here.set()
    before = received.stamp()
    is_lost = isinstance(error, NotInStoreError)

    if is_lost:
        await until_true(lambda: received.stamp() != before)
        await received.check_way_back()
    else:
        await until_true(lambda: files.asked >= 8)
        with pytest.raises(VersionRefusedError, match="no files"):
            await received.check_way_back()
    assert received._engine.lost_version == (1 if is_lost else None)  # type: ignore[attr-defined]
    with pytest.raises(RoundMissedError, match="not here yet"):
        await received.receive(Wanted(version=2, location="2-5a", sha256=SHA256), "keep", None)


async def test_files_of_a_version_that_is_served_no_more_are_not_asked_for(
    received: RoundReceiver, files: Files, tiny_model: Path
) -> None:
    files.refuses = VersionRefusedError("the store does not answer")
    files.here.set()
    await received._engine.load_checkpoint(2, tiny_model, "keep")

    await until_true(received._way_back._trying.done)  # type: ignore[union-attr] # it has begun

    await received.check_way_back()
    assert not received.stamp()


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
