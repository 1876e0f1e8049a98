"""Dead letters are listed, shown, queued again and dropped, whatever their bytes are; nothing is lost or doubled."""

from __future__ import annotations

import json
import math
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rollstream import Client, GenerationConfig
from rollstream.producer.cli.app import app
from rollstream.producer.redis_io.connection import Connection
from rollstream.producer.replay import dead_letters
from rollstream.producer.replay.dead_letters import find, requeue
from rollstream.producer.replay.replay import replay_dead
from rollstream.producer.replay.selection import Place
from rollstream.schemas import DeadLetter, Job, Keys, decode, encode
from tests.support.fault_steps import stub
from tests.support.faults import Link, Queue, audit
from tests.support.worker_process import ROOT

CONFIG = GenerationConfig(max_new_tokens=4)
HOSTILE = b"\xff\x00\x1b[2J"


class Operator:
    """`rollstream dead` with one policy."""

    def __init__(self, redis_url: str, policy: str) -> None:
        self.env = {"ROLLSTREAM_REDIS": redis_url, "ROLLSTREAM_POLICY": policy}

    def __call__(self, *args: str) -> Result:
        return CliRunner(env=self.env).invoke(app, ["dead", *args])

    def json(self, *args: str) -> Any:
        done = self(*args, "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)


@pytest.fixture
def operator(redis_url: str, policy: str) -> Operator:
    return Operator(redis_url, policy)


def letter_of(policy: str, **changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "policy": policy,
        "entry_id": "5-0",
        "fields": ((b"batch", b"b"), (b"job", b"0")),
        "error": "DataError: given up after 3 deliveries",
        "traceback": "Traceback (most recent call last):\n  boom",
        "deliveries": 4,
        "worker": "gpu-7",
        "delivered_at": 1.7e9,
        "buried_at": 1.7e9 + 1,
    }
    return encode(DeadLetter(**fields | changes))


def bury(queue: Queue, letter: bytes, payload: bytes, key: str = "", entry_id: str = "*") -> str:
    entry: Any = queue.redis.xadd(key or queue.keys.dead(0), {b"letter": letter, b"payload": payload}, id=entry_id)
    return str(entry.decode())


@pytest.fixture
def payload(redis_url: str, policy: str, queue: Queue) -> bytes:
    """Of a real job of batch `b`, whose entry is gone."""
    with Client(redis_url, policy=policy) as client:
        client.submit([[1, 2], [3]], None, CONFIG, batch_id="b")
    ((entry_id, fields),) = queue.entries()
    queue.redis.xdel(queue.jobs_key, entry_id)
    return fields[b"payload"]


# Listing and showing


def test_letters_are_listed_with_all_that_one_sorts_by(operator: Operator, queue: Queue, policy: str) -> None:
    entry = bury(queue, letter_of(policy), b"12345")
    (row,) = operator.json("ls")
    assert row == {
        "partition": 0, "entry": entry, "batch": "b", "payload_bytes": 5, "deliveries": 4, "worker": "gpu-7",
        "error": "DataError: given up after 3 deliveries", "job_entry": "5-0", "letter_problem": None,
        "delivered_at": "2023-11-14T22:13:20+00:00", "buried_at": "2023-11-14T22:13:21+00:00",
    }  # fmt: skip
    shown = operator("ls").stdout
    assert f"0/{entry}" in shown
    assert "DataError: given up after 3 deliveries" in shown


def test_more_letters_than_one_read_takes_are_listed_in_order(operator: Operator, queue: Queue, policy: str) -> None:
    buried = [bury(queue, letter_of(policy), b"") for _ in range(40)]
    assert [row["entry"] for row in operator.json("ls")] == buried


def test_large_letters_are_listed_a_megabyte_a_call(operator: Operator, queue: Queue, policy: str) -> None:
    buried = [bury(queue, letter_of(policy), b"x" * 400_000) for _ in range(7)]
    bury(queue, letter_of(policy), b"y" * 3_000_000)
    rows: Any = queue.redis.eval(
        dead_letters._LIST, 1, queue.keys.dead(0), "-", dead_letters._READ_COUNT, dead_letters._READ_BYTES
    )
    assert [row[0].decode() for row in rows] == buried[:3]
    listed = [row["entry"] for row in operator.json("ls")]
    assert (listed[:-1], len(listed)) == (buried, 8)


@pytest.mark.parametrize("text", ["other failure", "gpu-8", "batch-2", "7-7"])
def test_a_filter_looks_into_error_worker_batch_and_entry(
    operator: Operator, queue: Queue, policy: str, text: str
) -> None:
    bury(queue, letter_of(policy), b"")
    changes = {"error": "other failure", "worker": "gpu-8", "fields": ((b"batch", b"batch-2"),), "entry_id": "7-7"}
    wanted = bury(queue, letter_of(policy, **changes), b"")
    assert [row["entry"] for row in operator.json("ls", text)] == [wanted]
    assert operator.json("ls", "no such text") == []


def test_letters_of_every_partition_are_found(redis_url: str, policy: str, queue: Queue) -> None:
    operator, keys = Operator(redis_url, policy), Keys(policy, 3)
    for partition in (0, 2):
        bury(queue, letter_of(policy), b"p%d" % partition, keys.dead(partition), "9-1")
    bury(queue, letter_of(policy), b"", keys.dead(1), "8-1")
    rows = operator.json("ls", "--partitions", "3")
    assert [(row["partition"], row["entry"]) for row in rows] == [(0, "9-1"), (1, "8-1"), (2, "9-1")]
    several = operator("show", "9-1", "--partitions", "3")
    assert (several.exit_code, "write 0/9-1 or 2/9-1" in several.stderr) == (1, True)
    assert operator.json("show", "2/9-1", "--partitions", "3")["partition"] == 2
    assert operator.json("show", "8-1", "--partitions", "3")["partition"] == 1


def test_show_tells_the_history_and_what_the_job_is(
    operator: Operator, queue: Queue, policy: str, payload: bytes, tmp_path: Path
) -> None:
    entry = bury(queue, letter_of(policy), payload)
    found = operator.json("show", entry, "--payload", str(tmp_path / "job"))
    assert (tmp_path / "job").read_bytes() == payload
    assert found["traceback"] == "Traceback (most recent call last):\n  boom"
    assert found["fields"] == [["batch", "b"], ["job", "0"]]
    assert found["payload_problem"] is None
    assert found["payload"]["prompt_tokens"] == [2, 1]
    assert found["payload"]["config"] == {"max_new_tokens": 4}
    shown = operator("show", entry).stdout
    assert "  boom\n" in shown
    assert "payload prompt_tokens: [2, 1]" in shown


@pytest.mark.parametrize(
    ("letter", "payload_bytes"),
    [(HOSTILE, HOSTILE), (b"", b""), (b"\x81\xa1v\x01", b"\xc1" * 2000), (b"\x91" * 500, b"\xdf\xff\xff\xff\xff")],
)
def test_hostile_bytes_are_shown_as_what_they_are(
    operator: Operator, queue: Queue, letter: bytes, payload_bytes: bytes
) -> None:
    entry = bury(queue, letter, payload_bytes)
    for done in (operator("ls"), operator("show", entry)):
        assert done.exit_code == 0, done.output
        assert "\x1b" not in done.output
    (row,) = operator.json("ls")
    assert row["letter_problem"].startswith("DeadLetter: ")
    assert operator.json("show", entry)["payload_problem"].startswith("Job: ")


def test_a_hostile_letter_that_reads_well_does_not_reach_the_terminal_raw(
    operator: Operator, queue: Queue, policy: str
) -> None:
    changes: dict[str, Any] = {
        "error": "[red]\x1b[2J", "traceback": "a\n\x1b]0;x\x07", "worker": "w\r", "fields": ((HOSTILE, HOSTILE),),
        "delivered_at": math.nan, "buried_at": 1e308,
    }  # fmt: skip
    entry = bury(queue, letter_of(policy, **changes), b"")
    for done in (operator("ls"), operator("show", entry)):
        assert (done.exit_code, "\x1b" in done.output, "\r" in done.output) == (0, False, False)
    assert operator.json("show", entry)["buried_at"] is None


@pytest.mark.parametrize("name", ["1-1", "none", "x/1-1", "7/1-1", "99999999999999999999-0", "\x1b[2J", "-", "²/1-1"])
def test_a_name_of_no_letter_is_one_clear_line(operator: Operator, name: str) -> None:
    done = operator("show", "--", name)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith("rollstream: dead letter ")
    assert len(done.stderr.splitlines()) == 1
    assert "\x1b" not in done.stderr


def test_a_stream_of_another_type_is_one_clear_line(operator: Operator, queue: Queue) -> None:
    queue.redis.set(queue.keys.dead(0), "x")
    done = operator("ls")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "something else wrote this policy's keys" in done.stderr


# Queueing again


def test_a_requeued_job_is_answered_as_a_batch_of_its_own(
    operator: Operator, queue: Queue, redis_url: str, policy: str, payload: bytes
) -> None:
    entry = bury(queue, letter_of(policy), payload)
    done = operator("requeue", entry)
    assert (done.exit_code, done.stdout) == (0, f"b.requeue-{entry}\n"), done.stderr
    assert operator.json("ls") == []
    with stub(redis_url, policy), Client(redis_url, policy=policy) as client:
        handle = client.attach(f"b.requeue-{entry}")
        assert handle.batch.replay_of == "b"
        assert [answer.kind for answer in handle.wait(20).values()] == ["group", "group"]
    audit(redis_url, policy, f"b.requeue-{entry}", 2)


async def test_a_requeue_that_died_before_the_letter_was_dropped_is_repeated(
    queue: Queue, redis_url: str, policy: str, payload: bytes
) -> None:
    entry = bury(queue, letter_of(policy), payload)
    connection = Connection(redis_url, reconnect_s=1)
    await replay_dead(connection, queue.keys, [Place(queue.keys.dead(0), entry)], f"b.requeue-{entry}")
    assert len(queue.dead()) == 1
    letter = await find(connection, queue.keys, entry)
    assert await requeue(connection, queue.keys, letter) == f"b.requeue-{entry}"
    await connection.aclose()
    assert (len(queue.entries()), queue.dead()) == (1, [])


@pytest.mark.parametrize("request_bytes", [b"XDEL", b"EVAL"])
async def test_a_lost_reply_neither_loses_nor_doubles(
    queue: Queue, link: Link, policy: str, payload: bytes, request_bytes: bytes
) -> None:
    entry = bury(queue, letter_of(policy), payload)
    connection = Connection(link.url, reconnect_s=10)
    letter = await find(connection, queue.keys, entry)
    link.lose_reply(to=request_bytes)
    await requeue(connection, queue.keys, letter)
    await connection.aclose()
    assert link.lost == 1
    ((_, fields),) = queue.entries()
    assert decode(fields[b"payload"], Job).batch_id == f"b.requeue-{entry}"
    assert queue.dead() == []


def test_a_long_batch_id_still_gives_a_new_one(operator: Operator, queue: Queue, policy: str, payload: bytes) -> None:
    job = decode(payload, Job).model_copy(update={"batch_id": "x" * 128})
    entry = bury(queue, letter_of(policy), encode(job))
    done = operator("requeue", entry)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.strip().endswith(f"x.requeue-{entry}")
    assert len(done.stdout.strip()) == 128


def test_what_cannot_be_decoded_stays_and_the_others_go(
    operator: Operator, queue: Queue, policy: str, payload: bytes
) -> None:
    entries = [bury(queue, letter, data) for letter, data in (
        (letter_of(policy), HOSTILE), (HOSTILE, payload), (letter_of(policy), payload)
    )]  # fmt: skip
    done = operator("requeue", "--all")
    assert (done.exit_code, done.stdout) == (1, f"b.requeue-{entries[2]}\n")
    assert f"dead letter 0/{entries[0]} cannot be queued again: Job: " in done.stderr
    assert len(done.stderr.splitlines()) == 2
    assert "\x1b" not in done.stderr
    assert [row["entry"] for row in operator.json("ls")] == entries[:2]
    again = operator("requeue", entries[2], entries[0])
    assert (again.exit_code, again.stdout) == (1, "")
    assert "not there (any more)" in again.stderr


def test_requeue_all_with_a_filter_leaves_the_others(
    operator: Operator, queue: Queue, policy: str, payload: bytes
) -> None:
    left = bury(queue, letter_of(policy), payload)
    taken = bury(queue, letter_of(policy, worker="gpu-8"), payload)
    assert operator("requeue", "--all", "gpu-8").stdout == f"b.requeue-{taken}\n"
    assert [row["entry"] for row in operator.json("ls")] == [left]


# Dropping


def test_drop_removes_what_it_is_told_to(operator: Operator, queue: Queue, policy: str) -> None:
    one, two, three = (bury(queue, letter_of(policy, worker=name), b"") for name in ("w1", "w2", "w3"))
    assert operator("drop", one, "--yes").stdout == "1 dropped\n"
    assert operator("drop", "--all", "w3", "--yes").stdout == "1 dropped\n"
    assert [row["entry"] for row in operator.json("ls")] == [two]
    unknown = operator("drop", two, three, "--yes")
    assert unknown.exit_code == 1
    assert [row["entry"] for row in operator.json("ls")] == [two]
    assert operator("drop", "--all", "--yes").stdout == "1 dropped\n"
    assert operator.json("ls") == []


def test_nothing_is_dropped_where_nobody_can_be_asked(operator: Operator, queue: Queue, policy: str) -> None:
    entry = bury(queue, letter_of(policy), b"")
    done = operator("drop", entry)
    assert (done.exit_code, "give --yes" in done.stderr) == (2, True)
    assert len(queue.dead()) == 1


@pytest.mark.parametrize(("answer", "code", "left"), [(b"n\n", 1, 1), (b"y\n", 0, 0)])
def test_drop_asks_on_a_terminal(
    operator: Operator, queue: Queue, policy: str, answer: bytes, code: int, left: int
) -> None:
    entry = bury(queue, letter_of(policy), b"")
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "rollstream", "dead", "drop", entry],
        cwd=ROOT,
        env={"PATH": "", **operator.env},
        stdin=end,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    os.write(terminal, answer)
    said, _ = process.communicate(timeout=60)
    os.close(terminal)
    os.close(end)
    assert (process.returncode, len(queue.dead())) == (code, left), said
    assert b"drop 1 dead letters" in said


# Usage


@pytest.mark.parametrize(
    "args", [["requeue"], ["requeue", "--all", "a", "b"], ["drop", "--yes"], ["drop", "--all", "a", "b", "--yes"]]
)
def test_wrong_usage_exits_2(operator: Operator, args: list[str]) -> None:
    assert operator(*args).exit_code == 2


@pytest.mark.parametrize("name", ["ls", "show", "requeue", "drop"])
def test_help_teaches_by_example(operator: Operator, name: str) -> None:
    done = operator(name, "--help")
    assert done.exit_code == 0
    assert f"Example: rollstream dead {name}" in done.stdout
