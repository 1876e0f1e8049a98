"""`rollstream runs` shows who has a run and what is left of it, and gives one up."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import Result

from rollstream import Client, GenerationConfig, RunLostError
from rollstream.producer.cli.views.fit import plain
from rollstream.producer.cli.views.runs import run_lines, runs_lines
from rollstream.producer.doctor.run_checks import run_findings
from rollstream.producer.runs.read_runs import RunSeen
from rollstream.schemas import Keys, encode
from rollstream.schemas.hashes.runs import RunField
from rollstream.schemas.times import RESULT_TTL_S
from rollstream.schemas.wire.trainers.run_state import RunState
from rollstream.schemas.wire.trainers.runs import Intent
from tests.support.command_line import Command

CONFIG = GenerationConfig(max_new_tokens=2)
DAY = 86_400


@pytest.fixture
def run_command(redis_url: str, policy: str) -> Callable[..., Result]:
    return Command(redis_url, policy)


@pytest.fixture
def left(client: Client) -> str:
    """A run that a trainer has left with one batch answered and one not; the id of the first."""
    run = client.run("exp-42")
    run.open()
    done, _, consumed = [run.submit([[number]], None, CONFIG) for number in range(3)]
    done.cancel()
    run.consumed(consumed, cursor={"step": 1})
    return done.batch_id


def test_a_list_of_runs_says_who_has_each(client: Client, left: str, run_command: Callable[..., Result]) -> None:
    with client.run("other"):
        pass

    lines = run_command("runs").stdout.splitlines()
    assert lines[0].split() == ["run", "held", "by", "last", "write", "submitted", "consumed", "outstanding", "cursor"]
    assert [line.split()[:2] for line in lines[1:]] == [["other", "nobody"], ["exp-42", lines[2].split()[1]]]
    assert lines[2].split()[-5:] == ["3", "1", "2", "7", "bytes"]


def test_a_policy_without_runs_says_so(run_command: Callable[..., Result]) -> None:
    assert "has no runs" in run_command("runs").stdout
    assert json.loads(run_command("runs", "--json").stdout) == []


def test_one_run_in_full_has_its_cursor_and_its_batches(left: str, run_command: Callable[..., Result]) -> None:
    shown = run_command("runs", "--run", "exp-42").stdout
    counted = "3 batches submitted, 1 consumed, 0 dropped, 2 outstanding"
    for part in ("held by", "opened 1 time so far", "14 days", counted, "version 1", "{'step': 1}", left, "1/1", "0/1"):
        assert part in shown

    told = json.loads(run_command("runs", "--run", "exp-42", "--json").stdout)
    assert (told["held"], told["epoch"], told["cursor"], told["outstanding"]) == (True, 1, "{'step': 1}", 2)
    assert [(one["number"], one["done"], one["groups"]) for one in told["batches"]] == [(1, 1, 1), (2, 0, 1)]


def test_a_run_that_is_unknown_is_an_error(run_command: Callable[..., Result]) -> None:
    done = run_command("runs", "--run", "nope")
    assert (done.exit_code, "never opened, forgotten" in done.stderr) == (1, True)


def test_forgetting_asks_first_and_then_lets_results_expire_as_usual(
    server: Any, policy: str, left: str, run_command: Callable[..., Result]
) -> None:
    keys = Keys(policy)
    refused = run_command("runs", "--forget", "exp-42")
    assert (refused.exit_code, server.exists(keys.run("exp-42"))) == (2, 1)

    done = run_command("runs", "--forget", "exp-42", "--yes")
    assert done.stdout == "run exp-42 forgotten, with 2 outstanding batches\n"
    assert not server.exists(keys.run("exp-42"), keys.runs())
    assert server.ttl(keys.results(left)) <= RESULT_TTL_S


@pytest.mark.parametrize("field", [RunField.EPOCH, RunField.TOKEN, RunField.CURSOR, RunField.outstanding("x")])
def test_a_run_that_nobody_can_open_is_shown_and_forgotten(
    server: Any, policy: str, left: str, run_command: Callable[..., Result], field: str
) -> None:
    server.hset(Keys(policy).run("exp-42"), field, b"\xff\x1b[2J")

    for words in (["runs"], ["runs", "--run", "exp-42"], ["runs", "--json"], ["runs", "--forget", "exp-42", "--yes"]):
        done = run_command(*words)
        assert (done.exit_code, "\x1b" in done.stdout) == (0, False), done.output
    assert not server.exists(Keys(policy).run("exp-42"))


def test_a_trainer_whose_run_is_forgotten_is_told(client: Client, run_command: Callable[..., Result]) -> None:
    run = client.run("exp")
    run.open()
    run_command("runs", "--forget", "exp", "--yes")
    with pytest.raises(RunLostError):
        run.save_cursor(1)


@pytest.mark.parametrize("words", [["--run", "a", "--forget", "a"], ["--yes"]])
def test_words_that_do_not_fit_are_a_wrong_usage(run_command: Callable[..., Result], words: list[str]) -> None:
    assert run_command("runs", *words).exit_code == 2


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_lines_fit_their_width(width: int) -> None:
    lines = [*runs_lines("p", [seen(silent_s=5)], width), *run_lines("p", seen(silent_s=5), [], width)]
    assert max(plain(line).cell_len for line in lines) <= width


def seen(*, silent_s: float, outstanding: int = 0, **fields: bytes) -> RunSeen:
    told = {b"seen_at": b"1000", b"epoch": b"1", b"holder": b"gpu-1:7", **{k.encode(): v for k, v in fields.items()}}
    for number in range(outstanding):
        name = f"b.{number}"
        intent = Intent(batch_id=name, number=number + 1, digest="0" * 64, samples=1, intended_at=0.0)
        told[RunField.outstanding(name).encode()] = encode(intent)
    return RunSeen(name="exp", state=RunState.of(told), now=1000 + silent_s)


@pytest.mark.parametrize(
    ("runs", "levels"),
    [
        ([], []),
        ([seen(silent_s=2 * DAY)], ["ok"]),
        ([seen(silent_s=10, outstanding=3)], ["ok"]),
        ([seen(silent_s=2 * DAY, outstanding=3)], ["warn"]),
        ([seen(silent_s=10, cursor_version=b"x")], ["ok", "fail"]),
    ],
)
def test_the_doctor_warns_of_a_run_that_was_abandoned_with_results(runs: list[RunSeen], levels: list[str]) -> None:
    findings = run_findings(runs, "p")
    assert [one.level for one in findings] == levels
    assert all("rollstream runs --forget" in one.remedy for one in findings if one.level != "ok")


def test_the_doctor_sees_the_runs(left: str, server: Any, policy: str, run_command: Callable[..., Result]) -> None:
    server.hset(Keys(policy).run("exp-42"), RunField.SEEN_AT, b"1000")
    assert "exp-42 (2, silent for" in run_command("doctor").stdout
