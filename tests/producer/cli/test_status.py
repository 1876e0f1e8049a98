"""`rollstream status` shows jobs and live workers, and nothing that they wrote reaches the terminal raw."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis

from rollstream.schemas import Keys
from tests.support.command_line import Command
from tests.support.reports import report_of
from tests.support.worker_process import WorkerProcess


# status
def test_status_of_a_policy_that_nobody_uses(command: Command) -> None:
    done = command("status", "--json")
    assert done.exit_code == 0
    idle: dict[str, Any] = {
        "partition": 0, "entries": 0, "waiting": 0, "pending": 0, "oldest_waiting_s": None, "dead_letters": 0,
        "parked": [], "ids_ahead_s": 0.0,
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
