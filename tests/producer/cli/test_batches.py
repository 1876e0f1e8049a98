"""`rollstream batches` lists batches, newest first, with how far each is."""

from __future__ import annotations

import json

import pytest

from rollstream import Client, GenerationConfig
from rollstream.producer.cli.views.batches import batch_state, batch_table, left_s
from rollstream.producer.observe.fleet import FleetBatch
from tests.support.answers import Answering, error_of
from tests.support.command_line import Command
from tests.support.watching.fitting import shown
from tests.support.watching.fleets import batch_of

CONFIG = GenerationConfig(max_new_tokens=2)


@pytest.fixture
def three(client: Client, redis_url: str, policy: str) -> None:
    """Batches `done`, `cancelled` and `half`, in this order."""
    for batch_id in ("done", "cancelled", "half"):
        client.submit([[1], [2]], None, CONFIG, batch_id=batch_id)
    Answering(redis_url, policy, "done", 2).publish(*(error_of(group, [1], "done") for group in range(2)))
    Answering(redis_url, policy, "half", 2).publish(error_of(0, [1], "half"))
    client.attach("cancelled").cancel()


def test_batches_under_way_are_listed(three: None, command: Command, policy: str) -> None:
    titles, half, kept = command("batches").stdout.splitlines()
    assert titles.split() == ["batch", "progress", "done", "groups", "age", "left"]
    assert half.startswith("half   ████████░░░░░░░░")
    assert "50 %     1/2" in half
    assert kept == f"policy {policy} keeps 3 batches"


def test_all_batches_are_listed_newest_first_up_to_a_limit(three: None, command: Command) -> None:
    rows = json.loads(command("batches", "--all", "--json").stdout)
    assert [(row["batch_id"], row["state"], row["done"], row["groups"]) for row in rows] == [
        ("half", "under way", 1, 2), ("cancelled", "cancelled", 2, 2), ("done", "done", 2, 2),
    ]  # fmt: skip
    assert [row["left_s"] is None for row in rows] == [False, True, True]
    shown = command("batches", "--all", "--limit", "1").stdout
    assert "half   under way" in shown
    assert "and 2 more, see --limit" in shown


def test_none_under_way_is_said(client: Client, command: Command, policy: str) -> None:
    assert command("batches").stdout == f"policy {policy} keeps 0 batches\n"
    assert json.loads(command("batches", "--json").stdout) == []
    client.submit([[1]], None, CONFIG, batch_id="b").cancel()
    assert "keeps 1 batch, none of the newest is under way; --all lists them" in command("batches").stdout


def test_one_that_is_still_under_way_is_listed_however_many_are_newer(client: Client, command: Command) -> None:
    client.submit([[1]], None, CONFIG, batch_id="old")
    for number in range(210):
        client.submit([[1]], None, CONFIG, batch_id=f"new-{number}").cancel()
    assert [row["batch_id"] for row in json.loads(command("batches", "--json").stdout)] == ["old"]


@pytest.mark.parametrize(
    ("batch", "state", "left"),
    [
        (batch_of(groups=10, done=4, left_s=7.0), "under way", 7.0),
        (batch_of(groups=10, done=4, left_s=None, submitted_s_ago=20.0), "under way", 30.0),
        (batch_of(groups=10, done=0, left_s=None), "under way", None),
        (batch_of(groups=10, done=10, left_s=0.0), "done", None),
        (batch_of(groups=10, done=10, left_s=0.0, cancelled=True), "cancelled", None),
        (batch_of(groups=10, done=4, left_s=7.0, cancelled=True), "cancelled", None),
    ],
)
def test_the_time_left_is_that_of_late_or_since_the_submit(batch: FleetBatch, state: str, left: float | None) -> None:
    assert (batch_state(batch), left_s(batch)) == (state, left)


@pytest.mark.parametrize(
    ("width", "titles"),
    [
        (40, ["batch", "done", "left"]),
        (60, ["batch", "done", "groups", "age", "left"]),
        (90, ["batch", "state", "progress", "done", "groups", "age", "left"]),
    ],
)
def test_a_narrow_terminal_has_fewer_columns(width: int, titles: list[str]) -> None:
    batch = batch_of("step-41.replay-0123456789abcdef", groups=64_000, done=40_000, submitted_s_ago=900.0)
    head, row = shown(batch_table([batch], width).lines()).splitlines()
    assert head.split() == titles
    assert "62 %" in row
