"""Dead letters are listed and shown, whatever their bytes are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import pytest

from rollstream.producer.replay import scripts
from rollstream.schemas import Keys
from tests.support.dead_letters import HOSTILE, Operator, bury, letter_of
from tests.support.faults import Queue


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
    call = scripts.DEAD([queue.keys.dead(0)], ["-", scripts.READ_COUNT, scripts.READ_BYTES])
    rows = cast("Any", queue.redis).execute_command(*call.whole)
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
    operator, keys = Operator(redis_url, policy), Keys(policy, partitions=3)
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
    assert operator.json("show", entry)["payload_problem"].startswith("Job or ScoreJob: ")


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
