"""`rollstream status` shows jobs and live workers, and nothing that they wrote reaches the terminal raw."""

from __future__ import annotations

import json
import signal
import time
from typing import Any

import pytest
import redis

from rollstream.producer.cli.status import judged, with_interval
from rollstream.producer.observe.fleet import Presence
from rollstream.producer.operations.queue_state import WorkerSeen
from rollstream.schemas import Keys
from rollstream.schemas.hashes.worker_report import WorkerReport
from tests.support.command_line import Command
from tests.support.faults import Link, Queue
from tests.support.reports import report_of
from tests.support.watching.fleets import worker_of
from tests.support.worker_process import WorkerProcess


# status
def test_status_of_a_policy_that_nobody_uses(command: Command) -> None:
    done = command("status", "--json")
    assert done.exit_code == 0
    idle: dict[str, Any] = {
        "partition": 0, "entries": 0, "waiting": 0, "pending": 0, "oldest_waiting_s": None, "dead_letters": 0,
        "parked": [], "for_sessions": 0, "ids_ahead_s": 0.0, "partials_bytes": 0,
    }  # fmt: skip
    assert (json.loads(done.stdout)["queues"], json.loads(done.stdout)["workers"]) == ([idle], [])


def test_status_counts_waiting_and_pending_jobs(command: Command, redis_url: str, policy: str) -> None:
    rows = '{"prompt_token_ids": [1]}\n' * 3
    command("submit", "-", "--max-new-tokens", "4", "--prompts-per-job", "1", stdin=rows)
    queue = json.loads(command("status", "--json").stdout)["queues"][0]
    assert (queue["waiting"], queue["pending"], queue["entries"]) == (3, 0, 3)
    jobs = Keys(policy).jobs(0)
    with redis.Redis.from_url(redis_url) as server:
        can_tell = int(server.info()["redis_version"].split(".")[0]) >= 7
        server.xgroup_create(jobs, "workers", "0")
        server.xreadgroup("workers", "w", {jobs: ">"}, count=1)
    queue = json.loads(command("status", "--json").stdout)["queues"][0]
    assert (queue["waiting"], queue["pending"], queue["entries"]) == (2 if can_tell else None, 1, 3)
    assert 0 <= queue["oldest_waiting_s"] < 60
    assert "oldest waiting" in command("status").stdout


def test_status_shows_live_workers(stub_worker: WorkerProcess, command: Command) -> None:
    (worker,) = json.loads(command("status", "--json").stdout)["workers"]
    assert worker["fields"]["state"] == "serving"
    assert worker["fields"]["engine"] == "stub"
    assert 0 <= worker["seen_s_ago"] < 60
    assert "1 live workers" in command("status").stdout


def test_a_worker_cannot_send_control_characters_to_the_terminal(command: Command, redis_url: str, policy: str) -> None:
    with redis.Redis.from_url(redis_url) as server:
        report_of(server, Keys(policy), "w\x1b[2J", {"state": "[red]\x1b]0;x\x07", "seen_at": "never"})
        report_of(server, Keys(policy), "v", {b"model": b"\xff"})
    shown = command("status")
    assert shown.exit_code == 0
    assert "2 live workers" in shown.stdout
    assert "\x1b" not in shown.stdout


@pytest.mark.parametrize("moment", ["-inf", "inf", "nan", "1e308", "-1e308", ""])
def test_a_worker_seen_at_no_time_at_all_is_shown_without(
    command: Command, redis_url: str, policy: str, moment: str
) -> None:
    with redis.Redis.from_url(redis_url) as server:
        report_of(server, Keys(policy), "w", {"state": "serving", "seen_at": moment})
    assert command("status").exit_code == 0
    assert json.loads(command("status", "--json").stdout)["workers"][0]["seen_s_ago"] is None


def test_a_worker_whose_beats_do_not_come_is_late_then_gone(command: Command, queue: Queue) -> None:
    now = time.time()
    told = {"state": "serving", "policy_version": "7", "loading_version": "8", "tokens_per_s": "1234.5"}
    report_of(queue.redis, queue.keys, "w", {**told, "heartbeat_s": 1, "seen_at": now})
    row = next(line.split() for line in command("status").stdout.splitlines() if line.startswith("w "))
    assert row[:5] == ["w", "serving", "7", "(loads", "8)"]
    assert "1,234" in row
    queue.redis.zadd(queue.keys.workers(), {"w": now - 9})
    late = command("status").stdout
    assert "late since " in late
    assert "0 live workers, 1 late (" in late
    assert json.loads(command("status", "--json").stdout)["workers"][0]["presence"] == "late"
    queue.redis.delete(queue.keys.worker("w"))
    gone = command("status").stdout
    assert "gone since " in gone
    assert "0 live workers, 1 gone" in gone
    assert json.loads(command("status", "--json").stdout)["workers"] == []


def test_watching_as_json_prints_a_line_each_time_and_goes_on_after_an_outage(link: Link, policy: str) -> None:
    watching = Command(link.url, policy).start("status", "--watch", "0.1", "--json")
    assert watching.stdout is not None
    assert watching.stderr is not None
    assert [json.loads(watching.stdout.readline())["policy"] for _ in range(2)] == [policy] * 2
    link.drop()
    assert "cannot read the status: Redis at " in watching.stderr.readline()
    link.restore()
    assert watching.stderr.readline() == "rollstream: Redis answers again\n"
    watching.send_signal(signal.SIGINT)
    stdout, stderr = watching.communicate(timeout=30)
    assert (watching.returncode, stderr) == (0, "")
    assert all(json.loads(line)["queues"] for line in stdout.splitlines())


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (["--watch"], ["--watch", "2.0"]),
        (["--watch", "5"], ["--watch", "5"]),
        (["--watch", "0.5", "--json"], ["--watch", "0.5", "--json"]),
        (["--watch", "--json"], ["--watch", "2.0", "--json"]),
        (["--watch", "-1"], ["--watch", "-1"]),
        (["--json"], ["--json"]),
        ([], []),
    ],
)
def test_watch_needs_no_number(given: list[str], taken: list[str]) -> None:
    assert with_interval(given) == taken


def test_seconds_that_make_no_sense_are_wrong_usage(command: Command) -> None:
    for seconds in ("0", "-1", "1e9"):
        assert command("status", "--watch", seconds).exit_code == 2


def test_a_worker_that_reports_is_shown_even_if_this_user_may_not_rank_workers() -> None:
    seen = [WorkerSeen(consumer=name, report=WorkerReport(state="serving"), seen_s_ago=1.0) for name in ("a\x1b", "c")]
    found = [worker_of("b", Presence.GONE), worker_of("c", Presence.LATE)]
    assert [(one.consumer, one.presence) for one in judged(found, seen)] == [
        ("a\\x1b", Presence.LIVE), ("b", Presence.GONE), ("c", Presence.LATE),
    ]  # fmt: skip
