"""`rollstream cancel --groups` cuts numbers and ranges of groups, and refuses what is none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from rollstream import Client, GenerationConfig
from rollstream.producer.cli.app import app
from tests.support.answers import Answering, result_of
from tests.support.faults import Queue

CONFIG = GenerationConfig(max_new_tokens=4)


def command(redis_url: str, policy: str, *args: str) -> Any:
    return CliRunner(env={"ROLLSTREAM_REDIS": redis_url, "ROLLSTREAM_POLICY": policy}).invoke(app, list(args))


def test_the_command_cuts_numbers_and_ranges(redis_url: str, policy: str, queue: Queue) -> None:
    with Client(redis_url, policy=policy) as blocking:
        blocking.submit([[1 + n] for n in range(10)], None, CONFIG, batch_id="b")
    queue.redis.hset(queue.keys.ledger("b"), "g:6", "1-0|w|1")  # as a worker does, but for the job
    Answering(redis_url, policy, "b", 10).publish(result_of(6, [7], [[9]], "b"))

    cut = command(redis_url, policy, "cancel", "b", "--groups", "3, 5-8")
    again = command(redis_url, policy, "cancel", "b", "--groups", "3", "--json")
    rest = command(redis_url, policy, "cancel", "b", "--after", "0.1")

    assert (cut.exit_code, cut.stdout) == (0, "4 of 5 groups cut, 1 had their answers\n")
    assert json.loads(again.stdout) == {"batch_id": "b", "groups": 1, "answered": 0, "cut": 1}
    assert (rest.exit_code, rest.stdout) == (0, "5 of 10 groups cancelled, 5 had their answers\n")


@pytest.mark.parametrize("numbers", ["", "x", "3,", "8-5", "-1", "1-2-3", "0-99999999999", "0-4000000000", "1.5"])
def test_the_command_refuses_what_is_no_number_of_a_group(redis_url: str, policy: str, numbers: str) -> None:
    with Client(redis_url, policy=policy) as blocking:
        blocking.submit([[1]], None, CONFIG, batch_id="b")

    refused = command(redis_url, policy, "cancel", "b", "--groups", numbers)

    assert (refused.exit_code, refused.stdout) == (1, "")
    assert "write numbers and ranges, the smaller number first: 3,5-8" in refused.stderr


def test_the_command_names_a_group_that_the_batch_has_not(redis_url: str, policy: str) -> None:
    with Client(redis_url, policy=policy) as blocking:
        blocking.submit([[1]], None, CONFIG, batch_id="b")

    refused = command(redis_url, policy, "cancel", "b", "--groups", "0-3")

    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.startswith("rollstream: groups 1: give numbers of groups from 0 to 0")


# first_groups
