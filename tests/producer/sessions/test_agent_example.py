"""The example of an agent, with workers that sample anything: through the gateway, past a death, token for token."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from examples.agent import POLICY, Settings, Told, check, gateway, nearness, read, talk
from examples.agent_model import VOCABULARY, write_agent_model
from rollstream import Trajectory
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from tests.support.fault_steps import stub_flags
from tests.support.stub_workers import LEASE_S, serving
from tests.support.worker_process import WorkerProcess

SETTINGS = Settings(conversations=2, questions=2, seed=0, lessons=1)


@pytest.fixture(scope="module")
def talked(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Told], list[Trajectory]]:
    """Two conversations of four turns; one of two workers is killed after four of the eight."""
    model = write_agent_model(tmp_path_factory.mktemp("agent") / "model", seed=0, lessons=SETTINGS.lessons)
    vocabulary = "--stub-vocab-size", str(VOCABULARY)
    with EmbeddedRedis() as server, serving(server.url, POLICY, *vocabulary):
        killed = WorkerProcess(server.url, POLICY, *stub_flags(lease_s=LEASE_S), *vocabulary)
        with gateway(server.url, model) as base_url:
            told = asyncio.run(talk(base_url, SETTINGS, killed.end))
            return told, asyncio.run(read(server.url, told))


def test_each_trajectory_is_what_the_agent_was_given(talked: tuple[list[Told], list[Trajectory]]) -> None:
    told, trajectories = talked
    for one, trajectory in zip(told, trajectories, strict=True):
        check(one, trajectory)
        assert [turn.request_id for turn in trajectory.turns] == [f"turn-{number}" for number in range(4)]
        assert one.prompts[3][: len(one.prompts[2])] == one.prompts[2]
        assert trajectory.turns[1].response_start - trajectory.turns[1].start < len(one.prompts[0])  # new ids alone


def test_a_trajectory_of_other_tokens_is_refused(talked: tuple[list[Told], list[Trajectory]]) -> None:
    told, (trajectory, _) = talked
    other = trajectory.input_ids.copy()
    other[-1] += 1
    with pytest.raises(ValueError, match="turn turn-3 is not what was sampled"):
        check(told[0], replace(trajectory, input_ids=other))
    with pytest.raises(ValueError, match="the mask is not that of what was sampled"):
        check(told[0], replace(trajectory, response_mask=np.ones_like(trajectory.response_mask)))


def test_calls_are_rewarded_by_how_near_their_numbers_are() -> None:
    told: list[dict[str, object]] = [
        {"a": 3, "b": 4},
        {"a": 3, "b": 5},
        {"a": 99, "b": -99},
        {"a": 3},
        {"a": "3", "b": 4},
    ]
    assert [round(nearness(one, 3, 4), 3) for one in told] == [1.0, 0.944, 0.0, 0.0, 0.0]
