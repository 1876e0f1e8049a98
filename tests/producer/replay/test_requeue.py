"""A dead letter that is queued again or dropped is neither lost nor doubled, and the others stay."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest

from rollstream import Client
from rollstream.producer.redis_io.connection import Connection
from rollstream.producer.replay.dead_letters import find, requeue
from rollstream.producer.replay.replay import replay_dead
from rollstream.producer.replay.selection import Place
from rollstream.schemas import Job, decode, encode
from tests.support.dead_letters import HOSTILE, Operator, bury, letter_of
from tests.support.fault_steps import stub
from tests.support.faults import Link, Queue, audit
from tests.support.worker_process import ROOT


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
    connection = Connection(access=redis_url, reconnect_s=1)
    await replay_dead(connection, queue.keys, [Place(stream=queue.keys.dead(0), entry_id=entry)], f"b.requeue-{entry}")
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
    connection = Connection(access=link.url, reconnect_s=10)
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
    assert f"dead letter 0/{entries[0]} cannot be queued again: Job or ScoreJob: " in done.stderr
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
