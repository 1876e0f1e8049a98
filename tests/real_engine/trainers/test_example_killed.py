"""`examples/grpo_async.py`, killed and started again, learns what it would have learnt: on a real worker."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rollstream import Client
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.producer.demo.tiny_model import write_model
from rollstream.producer.demo.worker_process import serving_worker
from tests.support.worker_process import ROOT

pytestmark = [pytest.mark.vllm, pytest.mark.large, pytest.mark.timeout(1500)]

STEPS = 3
POINTS = (
    "await run.save_cursor",
    "await submit(admitted",
    "await batch.handle.result",
    "learner.train, rollouts",
    "learner.save",
    "await run.consumed",
    "to_thread(remove",
    "await publish(run, learner",
    "gate.advance",
)
"""Before these lines the trainer is killed, the second time that it comes there, or the first if there is no second."""


class Place:
    """A Redis and a worker that outlive trainers."""

    def __init__(self, url: str, model: Path, folder: Path) -> None:
        self.url, self.model, self.folder = url, model, folder

    def train(self, name: str, *before: str) -> tuple[int, dict[str, Any] | None]:
        """Run the example, which is killed before the line that contains `before`; its exit code and its numbers."""
        flags = ["--mode", "sync", "--steps", str(STEPS), "--redis", self.url, "--model", str(self.model),
                 "--out", str(self.folder / name), "--run", name]  # fmt: skip
        command = [sys.executable, "-m", "tests.support.processes.killed_example", *before, "--", *flags]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        numbers = self.folder / name / f"{name}-sync-seed0.json"
        return done.returncode, json.loads(numbers.read_text()) if numbers.exists() else None


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("killed")
    model = write_model(folder / "model", seed=0)
    with EmbeddedRedis() as server:
        flags = ("--weights", "redis", "--dtype", "float32", "--max-num-seqs", "128")
        with serving_worker(server.url, "grpo", model, folder, *flags):
            yield Place(server.url, model, folder)


def test_the_example_learns_the_same_wherever_it_is_killed(place: Place) -> None:
    _, undisturbed = place.train("never")
    assert undisturbed is not None
    rewards = [step["reward"] for step in undisturbed["steps"]]
    for number, point in enumerate(POINTS):
        name = f"kill-{number}"
        code, _ = place.train(name, point)
        assert code == -signal.SIGKILL, f"it never came to {point}"
        code, numbers = place.train(name)
        assert code == 0
        assert numbers is not None
        assert [step["reward"] for step in numbers["steps"]] == pytest.approx(rewards), point
        with Client(place.url, policy="grpo") as client, client.run(f"{name}-sync-seed0") as run:
            assert (run.counts.submitted, run.counts.consumed, run.counts.outstanding) == (STEPS, STEPS, 0), point
