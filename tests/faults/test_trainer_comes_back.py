"""A trainer that is killed at any line and started again trains on each prompt once, in order, with the same result."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from rollstream import Client
from rollstream.schemas import Keys
from tests.support.processes.killed_trainers import COMPLETIONS, STEPS, Order, outcomes, prompts

EACH_ONCE = [prompt for step in range(STEPS) for prompt in prompts(step) for _ in range(COMPLETIONS)]


def order(redis_url: str, policy: str, models: Path, folder: Path, **terms: Any) -> Order:
    usual = {"mode": "sync", "everywhere": False, "every": 1, "at_once": 4}
    return Order(url=redis_url, policy=policy, models=str(models), folder=str(folder), **{**usual, **terms})


def check(found: dict[int, Any], server: Any, redis_url: str, *, same_tokens: bool) -> None:
    undisturbed = found[0]["learnt"]
    for number, one in found.items():
        assert one["codes"] == ([-signal.SIGKILL, 0] if number else [0]), (number, one)
        assert [prompt for prompt, _ in one["learnt"]] == EACH_ONCE, (number, one)
        assert not same_tokens or one["learnt"] == undisturbed, number
        assert server.xlen(Keys(one["policy"]).jobs(0)) == STEPS, f"line {number}: a batch was queued twice"
        with Client(redis_url, policy=one["policy"]) as client, client.run("exp") as run:
            assert (run.counts.submitted, run.counts.consumed, run.cursor["step"]) == (STEPS, STEPS, STEPS)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.large)], ids=["every seventh", "any"])
def test_a_trainer_killed_at_a_line_of_its_loop_ends_as_if_nothing_had_happened(
    redis_url: str, policy: str, models: Path, tmp_path: Path, server: Any, every: int
) -> None:
    found = outcomes(order(redis_url, policy, models, tmp_path, every=every))

    assert len(found) > 20 // every
    check(found, server, redis_url, same_tokens=True)


@pytest.mark.large
@pytest.mark.timeout(1800)
def test_so_does_one_killed_at_any_line_of_the_run_itself(
    redis_url: str, policy: str, models: Path, tmp_path: Path, server: Any
) -> None:
    found = outcomes(order(redis_url, policy, models, tmp_path, everywhere=True))

    assert len(found) > 200
    check(found, server, redis_url, same_tokens=True)


@pytest.mark.large
@pytest.mark.timeout(1800)
def test_one_with_a_gate_that_is_a_batch_ahead_trains_on_each_prompt_once_too(
    redis_url: str, policy: str, models: Path, tmp_path: Path, server: Any
) -> None:
    found = outcomes(order(redis_url, policy, models, tmp_path, mode="gate", everywhere=True, every=3))

    check(found, server, redis_url, same_tokens=False)
