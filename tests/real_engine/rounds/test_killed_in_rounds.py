"""Workers on the real engine in a round, by gloo: one of two, or its engine, is killed in each phase of it.

All of it is marked `large`: every case starts an engine. `test_rounds_of_gpus` has rounds by NCCL.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rollstream import Client, GenerationConfig
from rollstream.producer.demo.tiny_model import write_model
from rollstream.producer.probes.make_probe import make_probe
from rollstream.schemas import GroupResult
from tests.real_engine.faults.test_engine_faults import engine_of
from tests.support.engine.transformers_reference import Reference
from tests.support.fault_steps import kill, log_of, wait_until_done
from tests.support.faults import Queue, audit
from tests.support.processes.halts import Halt
from tests.support.weights.versions import wait_until_serves
from tests.support.worker_process import WorkerProcess, wait_for

pytestmark = [pytest.mark.vllm, pytest.mark.large, pytest.mark.timeout(600)]

POLICY = "rounds"
START_S = 240.0
ROW = [(i * 37) % 500 + 3 for i in range(100)]
PROMPTS = [[5 + row, 6, 7] for row in range(8)]
MISSED = "taking the version from the weight store"
ENGINE_DIED = 3


class Fleet:
    """A trainer, a worker that stays, and one for each test; `with` ends them."""

    def __init__(self, redis_url: str, folder: Path) -> None:
        self.redis_url, self.folder = redis_url, folder
        (folder / "store").mkdir()
        self.models = [write_model(folder / f"v{seed}", seed=seed, tokenizer=False) for seed in range(2)]
        self.queue = Queue(redis_url, POLICY)
        self.client = Client(redis_url, policy=POLICY, weights=folder / "store")
        self.version = 0
        self._trainer = ThreadPoolExecutor(1)
        self.workers: list[WorkerProcess] = []
        self.stays = self.start()

    def close(self) -> None:
        for worker in self.workers:
            worker.end()
        self._trainer.shutdown()
        self.client.close()
        self.queue.redis.close()

    def start(self, halt: Halt | None = None) -> WorkerProcess:
        flags = (
            "--model", str(self.models[0]), "--dtype", "float32", "--max-num-seqs", "32", "--kv-cache-bytes",
            str(64 * 2**20), "--weights", str(self.folder / "store"), "--weight-transfer", "gloo", "--lease-s", "3",
            "--weights-cache", str(self.folder / "cache"),
        )  # fmt: skip
        self.workers.append(WorkerProcess(self.redis_url, POLICY, *flags, env=None if halt is None else halt.env))
        return self.workers[-1]

    @property
    def serving(self) -> Path:
        """The model of the newest version."""
        return self.models[self.version % 2]

    def publish(self) -> int:
        """The other model, in a round."""
        self.version += 1
        model: Any = AutoModelForCausalLM.from_pretrained(self.serving, dtype=torch.float32)
        self.client.publish_policy(self.version, model=model, transport="gloo", probe=make_probe(model, [ROW]))
        return self.version

    def publishing(self) -> Future[int]:
        """The same in a thread."""
        return self._trainer.submit(self.publish)

    def submit(self, tokens: int = 60) -> str:
        config = GenerationConfig(max_new_tokens=tokens, ignore_eos=True)
        return self.client.submit(PROMPTS, None, config, prompts_per_job=1).batch_id

    def audit(self, batch_id: str, *workers: WorkerProcess) -> list[GroupResult]:
        """All answered once, and each token under a version that its worker had proven."""
        wait_until_done(self.queue, batch_id, len(PROMPTS), *self.workers, timeout_s=120)
        wait_for(lambda: not self.queue.holders(), 30, lambda: f"{self.queue.holders()}")
        answers = audit(self.redis_url, POLICY, batch_id, len(PROMPTS))
        found = [answer for answer in answers if isinstance(answer, GroupResult)]
        assert found == answers
        for answer in found:
            (worker,) = [one for one in workers if f"-{one.process.pid}-" in answer.worker]
            for version in {version for spans in answer.version_spans for version, _ in spans} - {0}:
                assert any(
                    "policy version proven" in line and f" version={version}" in line
                    for line in worker.log.splitlines()
                ), f"{answer.worker} has not proven {version}"
        return found

    def check_served(self) -> None:
        """What is sampled now has the log-probs of the newest version's model."""
        reference = Reference(self.serving)
        answers = self.audit(self.submit(tokens=12), *self.workers)
        for answer in answers:
            tokens = answer.token_ids.numpy()[0].tolist()
            assert answer.logprobs is not None
            expected = reference.logprobs(PROMPTS[answer.group], tokens)
            assert answer.logprobs.numpy()[0] == pytest.approx(expected, abs=1e-3)


@pytest.fixture(scope="module")
def fleet(redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    fleet = Fleet(redis_url, tmp_path_factory.mktemp("rounds"))
    try:
        fleet.stays.wait_until_serving(START_S)
        yield fleet
    finally:
        fleet.close()


def test_one_worker_and_then_two_receive_a_version_that_a_trainer_sends(fleet: Fleet) -> None:
    wait_until_serves(fleet.stays, fleet.queue, fleet.publish(), 60)
    second = fleet.start().wait_until_serving(START_S)
    batch_id = fleet.submit()
    before = fleet.stays.log.count(MISSED)

    version = fleet.publish()

    for worker in (fleet.stays, second):
        wait_until_serves(worker, fleet.queue, version, 60)
    assert fleet.stays.log.count(MISSED) == before
    assert second.log.count(MISSED) == 1, "only at its start, when the round was over"
    fleet.audit(batch_id, fleet.stays, second)
    fleet.check_served()
    assert second.terminate(60) == 0


@pytest.mark.parametrize("phase", ["joined", "vllm link", "vllm receive", "vllm prove"])
@pytest.mark.parametrize("party", ["worker", "engine"])
def test_where_one_is_killed_the_other_serves_the_version_and_nothing_unproven_left_either(
    fleet: Fleet, tmp_path: Path, party: str, phase: str
) -> None:
    halt = Halt(phase, tmp_path / "halt")
    victim = fleet.start(halt).wait_until_serving(START_S)
    batch_id = fleet.submit()
    halt.arm()
    publishing = fleet.publishing()
    halt.wait_until_reached(lambda: log_of(fleet.stays, victim))
    if party == "worker":
        kill(victim)
    else:
        engine_of(victim).kill()
        halt.go_on()
        assert victim.process.wait(60) == ENGINE_DIED
    version = publishing.result(180)

    wait_until_serves(fleet.stays, fleet.queue, version, 180)
    fleet.audit(batch_id, fleet.stays, victim)
    fleet.check_served()
