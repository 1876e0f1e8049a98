"""A version that came in a round has its files later, and until then there is no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from rollstream.producer.redis_io.connection import Connection
from rollstream.worker.checkpoints.supply import Wanted
from rollstream.worker.errors import NotInStoreError, RoundMissedError, VersionRefusedError
from rollstream.worker.rounds import way_back
from rollstream.worker.rounds.receiver import RoundReceiver
from tests.support.faults import Queue
from tests.support.weights.rounds import SHA256, HeldMeeting, leader_of
from tests.support.worker_process import until_true
from tests.worker.rounds.receiving import WANTED, Files, led


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
