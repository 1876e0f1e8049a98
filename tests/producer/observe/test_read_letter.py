"""A dead letter's page tells what is known of its job, and the list of letters reads no payload."""

from __future__ import annotations

from typing import Any

import pytest

from rollstream import AsyncClient
from rollstream.producer.errors import UnknownLetterError
from rollstream.producer.observe import read_letter as reading
from rollstream.producer.observe.read_fleet import FleetReader
from rollstream.producer.observe.read_letter import read_letter
from rollstream.producer.redis_io.connection import Connection
from rollstream.schemas import Keys
from rollstream.schemas.wire.entry_fields import PAYLOAD
from tests.support.dead_letters import HOSTILE, bury, letter_of
from tests.support.fault_steps import tokens
from tests.support.faults import Queue

pytestmark = pytest.mark.keys_by_hand


@pytest.fixture
async def payload(trainer: AsyncClient, server: Any, keys: Keys) -> bytes:
    await trainer.submit([[1, 2, 3], [4]], None, tokens(9), batch_id="b")
    ((_, fields),) = server.xrange(keys.jobs(0))
    return bytes(fields[PAYLOAD])


async def test_the_newest_letters_are_listed_without_payloads(
    reader: FleetReader, queue: Queue, server: Any, policy: str, payload: bytes
) -> None:
    ids = [bury(queue, letter_of(policy, error=f"error {number}"), payload) for number in range(30)]

    first = await reader.read()
    newest = bury(queue, letter_of(policy, error="the newest"), b"x" * 2**20)
    server.config_resetstat()
    second = await reader.read()

    assert first.num_letters == 30
    assert [letter.letter_id for letter in first.letters] == ids[:9:-1]
    assert (first.letters[0].error, first.letters[0].batch_id, first.letters[0].deliveries) == ("error 29", "b", 4)
    assert [letter.letter_id for letter in second.letters] == [newest, *ids[:10:-1]]
    calls = server.info("commandstats")["cmdstat_xrevrange"]["calls"]
    assert calls <= 4, "of the letters only the new one is read again, beside the versions and their activations"


async def test_letters_that_were_dropped_are_listed_no_more(reader: FleetReader, queue: Queue, policy: str) -> None:
    ids = [bury(queue, letter_of(policy), b"") for _ in range(3)]
    await reader.read()
    queue.redis.xdel(queue.keys.dead(0), ids[1])

    fleet = await reader.read()

    assert [letter.letter_id for letter in fleet.letters] == [ids[2], ids[0]]
    assert fleet.num_letters == 2


async def test_a_letter_is_shown_with_its_job(
    connection: Connection, queue: Queue, keys: Keys, policy: str, payload: bytes
) -> None:
    letter_id = bury(queue, letter_of(policy), payload)

    letter = await read_letter(connection, keys, 0, letter_id)

    assert (letter.batch_id, letter.entry_id, letter.deliveries, letter.worker) == ("b", "5-0", 4, "gpu-7")
    assert letter.error == "DataError: given up after 3 deliveries"
    assert letter.traceback.endswith("\n  boom")
    assert (letter.groups, letter.prompt_lengths, letter.payload_bytes) == ((0, 2), (3, 1), len(payload))
    assert letter.config["max_new_tokens"] == 9
    assert letter.problem == ""


async def test_a_large_payload_is_not_read(
    connection: Connection, queue: Queue, keys: Keys, policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_READ_BYTES", 100)
    letter_id = bury(queue, letter_of(policy), b"x" * 101)

    letter = await read_letter(connection, keys, 0, letter_id)

    assert (letter.groups, letter.payload_bytes) == (None, 101)
    assert "101 bytes" in letter.problem


async def test_hostile_letters_are_shown_as_printable_text(
    connection: Connection, reader: FleetReader, queue: Queue, keys: Keys, policy: str
) -> None:
    hostile = HOSTILE.decode("latin-1") + "<script>" + "x" * 5000
    names = [
        bury(queue, letter_of(policy, error=hostile, worker=hostile, traceback=hostile, entry_id=hostile), HOSTILE),
        bury(queue, HOSTILE, HOSTILE),
        bury(queue, b"x" * 2**20, b""),
        bury(queue, letter_of(policy, fields=((b"batch", HOSTILE * 300), (HOSTILE, HOSTILE))), b""),
    ]

    fleet = await reader.read()
    seen = [await read_letter(connection, keys, 0, name) for name in names]

    listed = [text for one in fleet.letters for text in (one.error, one.batch_id, one.letter_id)]
    shown = [text for one in seen for text in (one.error, one.batch_id, one.worker, one.entry_id, one.problem)]
    assert len(fleet.letters) == 4
    assert all(text.isprintable() and len(text) < 600 for text in (*listed, *shown))
    assert all(line.isprintable() for one in seen for line in one.traceback.split("\n"))
    assert all(one.problem for one in seen)


@pytest.mark.parametrize(("partition", "letter_id"), [(0, "1-0"), (0, "x"), (1, "1-0"), (-1, "1-0")])
async def test_a_letter_that_is_not_there_is_an_error(
    connection: Connection, keys: Keys, partition: int, letter_id: str
) -> None:
    with pytest.raises(UnknownLetterError):
        await read_letter(connection, keys, partition, letter_id)
