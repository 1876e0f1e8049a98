"""`rollstream top` draws the fleet on a terminal until q or Ctrl-C, through outages of Redis, and takes itself away."""

from __future__ import annotations

import signal

import pytest
from rich.cells import cell_len

from rollstream import Client, GenerationConfig
from tests.support.command_line import Command
from tests.support.faults import Link, Queue
from tests.support.watching.terminal import Terminal
from tests.support.weights.publishing import reporting
from tests.support.worker_process import WorkerProcess, wait_for


@pytest.fixture
def worker(queue: Queue) -> None:
    """A worker's report that stays."""
    reporting(queue, "gpu-7", 7, newest_version="8", loading_version="8", model="tiny", max_sequences="64")


@pytest.mark.parametrize(
    ("end", "args"), [(signal.SIGINT, ("top",)), (signal.SIGTERM, ("status", "--watch", "0.2"))], ids=["top", "status"]
)
def test_a_signal_ends_it_quietly(
    end: signal.Signals, args: tuple[str, ...], worker: None, redis_url: str, policy: str
) -> None:
    with Terminal(redis_url, policy, *args) as terminal:
        terminal.wait_for("gpu-7")
        terminal.wait_for("7 (loads 8)")
        terminal.process.send_signal(end)
        assert terminal.ends() == 0
        assert b"Traceback" not in terminal.written


def test_what_changes_is_shown_and_a_new_size_is_filled(
    stub_worker: WorkerProcess, client: Client, redis_url: str, policy: str
) -> None:
    with Terminal(redis_url, policy, "top", "--interval", "0.2") as terminal:
        terminal.wait_for("There is nothing to do.")
        client.submit([[1], [2]], None, GenerationConfig(max_new_tokens=2), min_policy_version=9, batch_id="step-41")
        terminal.wait_for("step-41")
        terminal.resize(50, 20)
        terminal.wait_for("0/2")
        wait_for(lambda: all(cell_len(line) <= 50 for line in terminal.picture()), 20, lambda: str(terminal.picture()))
        stub_worker.end()
        terminal.wait_for("gone since")


def test_the_last_values_stay_while_redis_is_away_and_q_ends_it_all_the_same(
    worker: None, link: Link, policy: str
) -> None:
    with Terminal(link.url, policy, "top", "--interval", "0.2") as terminal:
        terminal.wait_for("gpu-7")
        link.drop()
        terminal.wait_for("Redis does not answer since ")
        assert "gpu-7" in "\n".join(terminal.picture())
        link.restore()
        wait_for(lambda: "not answer" not in "\n".join(terminal.picture()), 30, lambda: str(terminal.picture()))
        link.freeze()
        terminal.wait_for("Redis does not answer since ")
        terminal.press(b"q")
        assert terminal.ends() == 0


@pytest.mark.parametrize("environment", [{}, {"FORCE_COLOR": "1"}])
def test_without_a_terminal_it_says_what_to_give(command: Command, environment: dict[str, str]) -> None:
    command.env |= environment
    done = command("top")
    assert done.exit_code == 2
    assert "this is no terminal" in done.stderr


def test_one_picture_needs_no_terminal(worker: None, command: Command, policy: str) -> None:
    done = command("top", "--once")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith(f"{policy}: ")
    assert "gpu-7" in done.stdout
    assert "q ends" not in done.stdout


def test_long_lists_are_cut_to_the_height(queue: Queue, command: Command) -> None:
    for number in range(40):
        reporting(queue, f"gpu-{number}", 7)
    command.env |= {"LINES": "20", "COLUMNS": "70"}
    lines = command("top", "--once").stdout.splitlines()
    assert len(lines) <= 20
    assert any(line.startswith("and ") and line.endswith(" more") for line in lines)


def test_a_redis_that_never_answered_is_one_clear_line(command: Command) -> None:
    done = command("top", "--once", "--redis", "redis://127.0.0.1:1/0")
    assert done.exit_code == 1
    assert done.stderr.startswith("rollstream: cannot read the fleet: Redis at redis://127.0.0.1:1/0")
