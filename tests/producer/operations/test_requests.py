"""Pausing, resuming and draining: what an operator asked is where workers look for it, and repeating it is harmless."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rollstream.producer.cli.app import app
from rollstream.producer.operations.requests import pause
from rollstream.producer.redis_io.connection import Connection
from tests.support.fault_steps import stub
from tests.support.faults import Link, Queue
from tests.support.reports import report_of
from tests.support.worker_process import wait_for


class Operator:
    """`rollstream` with one policy."""

    def __init__(self, redis_url: str, policy: str) -> None:
        self._env = {"ROLLSTREAM_REDIS": redis_url, "ROLLSTREAM_POLICY": policy}

    def __call__(self, *args: str, stdin: str = "") -> Result:
        return CliRunner(env=self._env).invoke(app, list(args), input=stdin)


@pytest.fixture
def operator(redis_url: str, policy: str) -> Operator:
    return Operator(redis_url, policy)


def reporting(queue: Queue, *workers: str, ttl_s: int = 60) -> None:
    for worker in workers:
        report_of(queue.redis, queue.keys, worker, {"state": "serving", "model": "m"}, ttl_s)


# Pause and resume


def test_pausing_again_keeps_since_when(operator: Operator, queue: Queue, policy: str) -> None:
    rows = '{"prompt_token_ids": [1]}\n' * 3
    operator("submit", "-", "--max-new-tokens", "4", "--prompts-per-job", "1", stdin=rows)
    done = operator("pause")
    assert (done.exit_code, done.stdout) == (0, f"policy {policy} paused: 3 jobs waiting, 0 running\n")
    since: Any = queue.redis.hget(queue.keys.control(), "paused")
    assert float(since) > 1e9
    again = operator("pause")
    assert (again.exit_code, again.stdout.split(":")[0]) == (0, f"policy {policy} was paused already")
    assert queue.redis.hget(queue.keys.control(), "paused") == since


def test_resuming_ends_the_pause(operator: Operator, queue: Queue, policy: str) -> None:
    operator("pause")
    assert operator("resume").stdout == f"policy {policy} resumed\n"
    assert not queue.redis.exists(queue.keys.control())
    again = operator("resume")
    assert (again.exit_code, again.stdout) == (0, f"policy {policy} was not paused\n")


async def test_a_lost_reply_to_pause_is_not_taken_for_another_operator(link: Link, queue: Queue) -> None:
    connection = Connection(access=link.url, reconnect_s=10)
    link.lose_reply(to=b"HSETNX")
    assert await pause(connection, queue.keys)
    assert link.lost == 1
    assert not await pause(connection, queue.keys)
    await connection.aclose()


def test_status_shows_since_when_the_queue_is_paused(operator: Operator, queue: Queue) -> None:
    assert json.loads(operator("status", "--json").stdout)["paused"] is False
    operator("pause")
    found = json.loads(operator("status", "--json").stdout)
    assert found["paused"] is True
    assert 0 <= found["paused_s_ago"] < 60
    assert "PAUSED since" in " ".join(operator("status").stdout.split())  # a long title takes two lines
    queue.redis.hset(queue.keys.control(), "paused", b"\xff\x1b[2J")
    found = json.loads(operator("status", "--json").stdout)
    assert (found["paused"], found["paused_s_ago"]) == (True, None)
    assert "PAUSED:" in operator("status").stdout


def test_no_command_breaks_at_the_number_of_partitions(redis_url: str, policy: str, queue: Queue) -> None:
    env = {"ROLLSTREAM_REDIS": redis_url, "ROLLSTREAM_POLICY": policy, "ROLLSTREAM_PARTITIONS": "3"}
    for command in ("pause", "resume", "drain", "status", "doctor"):
        options = ["--all"] if command == "drain" else []
        assert CliRunner(env=env).invoke(app, [command, *options, "--partitions", "3"]).exit_code == 0
        assert CliRunner(env=env).invoke(app, [command, *options]).exit_code == 0
    assert not queue.redis.exists(queue.keys.control())


def test_status_says_why_a_worker_takes_no_jobs(operator: Operator, queue: Queue) -> None:
    reporting(queue, "a")
    queue.redis.hset(queue.keys.worker("a"), mapping={"state": "paused", "paused_for": "memory,operator"})
    assert {"paused", "(memory,operator)"} <= set(operator("status").stdout.split())


# Drain


def test_a_drained_worker_finds_the_wish_in_its_report(operator: Operator, queue: Queue) -> None:
    reporting(queue, "a", "b")
    done = operator("drain", "a")
    assert (done.exit_code, done.stdout) == (0, "a drains\n")
    assert queue.redis.hget(queue.keys.worker("a"), "drain") == b"1"
    assert 0 < queue.redis.ttl(queue.keys.worker("a")) <= 60
    assert not queue.redis.hexists(queue.keys.worker("b"), "drain")
    assert operator("drain", "--all").stdout == "a drains\nb drains\n"
    assert queue.redis.hget(queue.keys.worker("b"), "drain") == b"1"


def test_a_worker_that_does_not_live_is_named_with_those_that_do(operator: Operator, queue: Queue) -> None:
    reporting(queue, "a", "b")
    done = operator("drain", "a", "ghost\x1b[2J")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "no live worker ghost\\x1b[2J of policy" in done.stderr
    assert "live are a, b" in done.stderr
    assert not queue.redis.hexists(queue.keys.worker("a"), "drain")
    assert not queue.redis.exists(queue.keys.worker("ghost\x1b[2J"))


def test_draining_no_worker_is_no_error(operator: Operator) -> None:
    done = operator("drain", "--all", "--wait")
    assert (done.exit_code, done.stdout) == (0, "no live worker\n")


def test_waiting_for_a_drain_ends_when_the_reports_are_gone(operator: Operator, queue: Queue) -> None:
    reporting(queue, "a", "b")
    done: list[Result] = []
    waiting = threading.Thread(target=lambda: done.append(operator("drain", "a", "--wait", "--timeout", "20")))
    waiting.start()
    wait_for(lambda: bool(queue.redis.hexists(queue.keys.worker("a"), "drain")), 30, lambda: "not asked")
    # It was away from Redis, its report expired, and it reports again: into a hash without the wish.
    with queue.redis.pipeline(transaction=True) as pipe:
        pipe.delete(queue.keys.worker("a"))
        pipe.hset(queue.keys.worker("a"), "state", "serving")
        pipe.execute()
    wait_for(lambda: bool(queue.redis.hexists(queue.keys.worker("a"), "drain")), 30, lambda: "not asked again")
    queue.redis.delete(queue.keys.worker("a"))
    waiting.join(10)
    assert [result.exit_code for result in done] == [0]
    assert not queue.redis.hexists(queue.keys.worker("b"), "drain")


def test_a_drain_that_takes_too_long_exits_4(operator: Operator, queue: Queue) -> None:
    reporting(queue, "a")
    done = operator("drain", "a", "--wait", "--timeout", "0.3")
    assert (done.exit_code, done.stdout) == (4, "a drains\n")
    assert done.stderr == "rollstream: not all are gone after 0.3 s; they go on draining\n"


@pytest.mark.parametrize("args", [["drain"], ["drain", "w", "--all"], ["drain", "w", "--timeout", "3"]])
def test_wrong_usage_exits_2(operator: Operator, args: list[str]) -> None:
    assert operator(*args).exit_code == 2


def test_a_real_worker_ends_in_order_when_it_is_drained(operator: Operator, redis_url: str, policy: str) -> None:
    with stub(redis_url, policy) as worker:
        done = operator("drain", "--all", "--wait", "--timeout", "20")
        assert done.exit_code == 0, f"{done.stderr}{worker.log}"
        assert worker.process.wait(10) == 0


@pytest.mark.parametrize("name", ["cancel", "pause", "resume", "drain", "doctor"])
def test_help_teaches_by_example(operator: Operator, name: str) -> None:
    done = operator(name, "--help")
    assert done.exit_code == 0
    assert f"Example: rollstream {name}" in done.stdout
