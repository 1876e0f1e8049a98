"""On two GPUs or more: rounds by NCCL, from a trainer on the first to workers on the others, also where one is killed.

Skipped where there are fewer. By gloo the same goes on the CPU: `test_killed_in_rounds`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from rollstream import Client, GenerationConfig
from rollstream.producer.demo.tiny_model import write_model
from rollstream.producer.probes.make_probe import make_probe
from tests.support.engine.transformers_reference import Reference
from tests.support.fault_steps import kill
from tests.support.faults import Queue
from tests.support.processes.halts import Halt
from tests.support.weights.versions import wait_until_serves
from tests.support.worker_process import WorkerProcess

GPUS = torch.cuda.device_count()
pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(600),
    pytest.mark.skipif(GPUS < 2, reason="there are not two GPUs"),
]

START_S = 240.0
MISSED = "taking the version from the weight store"
ROW = [(i * 37) % 500 + 3 for i in range(100)]
PROMPT = [5, 6, 7, 8]
ATOL = 0.1
"""Nats, in float16: other weights are whole nats away."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("gpus")
    return [write_model(root / f"v{seed}", seed=seed, tokenizer=False) for seed in range(2)]


@pytest.fixture
def client(redis_url: str, policy: str, tmp_path: Path) -> Iterator[Client]:
    with Client(redis_url, policy=policy, weights=tmp_path) as client:
        yield client


def worker(queue: Queue, url: str, models: list[Path], store: Path, gpus: str, halt: Halt | None = None) -> Any:
    flags = (
        "--model", str(models[0]), "--dtype", "float16", "--max-num-seqs", "64", "--gpu-memory-utilization", "0.04",
        "--kv-cache-bytes", str(2**28), "--engine-args", "enforce_eager=true", "--weights", str(store),
        "--weight-transfer", "nccl", "--tensor-parallel-size", str(len(gpus.split(","))), "--lease-s", "3",
    )  # fmt: skip
    env = {"CUDA_VISIBLE_DEVICES": gpus, **({} if halt is None else halt.env)}
    return WorkerProcess(url, queue.keys.policy, *flags, env=env)


def publish(client: Client, folder: Path, version: int) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    probe = make_probe(model, [ROW])
    client.publish_policy(version, model=model.to("cuda:0"), transport="nccl", probe=probe)  # float32, as its files


def check_served(client: Client, folder: Path) -> None:
    config = GenerationConfig(max_new_tokens=24, num_return_sequences=4, ignore_eos=True)
    reference = Reference(folder)
    for group in client.submit([PROMPT] * 4, None, config).groups(timeout=120):
        for completion in group.completions:
            expected = reference.logprobs(PROMPT, completion.token_ids)
            assert completion.logprobs == pytest.approx(expected, abs=ATOL)


@pytest.mark.parametrize(
    "gpus",
    ["1", pytest.param("1,2", marks=pytest.mark.skipif(GPUS < 3, reason="there are not three GPUs"))],
    ids=["one process", "tensor parallel"],
)
def test_what_a_trainer_sends_by_nccl_is_proven_and_served(
    client: Client, redis_url: str, queue: Queue, models: list[Path], tmp_path: Path, gpus: str
) -> None:
    one = worker(queue, redis_url, models, tmp_path, gpus)
    try:
        one.wait_until_serving(START_S)
        for version in (1, 2):
            publish(client, models[version % 2], version)
            wait_until_serves(one, queue, version, 60)
            check_served(client, models[version % 2])
        assert MISSED not in one.log
    finally:
        one.end()


@pytest.mark.parametrize("phase", ["joined", "vllm link", "vllm receive", "vllm prove"])
def test_a_worker_that_is_killed_in_a_round_is_left_out_and_its_successor_reads_the_store(
    client: Client, redis_url: str, queue: Queue, models: list[Path], tmp_path: Path, phase: str
) -> None:
    halt = Halt(phase, tmp_path / "halt")
    victim = worker(queue, redis_url, models, tmp_path, "1", halt)
    successor = None
    try:
        victim.wait_until_serving(START_S)
        halt.arm()
        before = client.submit([PROMPT], None, GenerationConfig(max_new_tokens=24, ignore_eos=True))
        with halt.when_reached(lambda: kill(victim), lambda: victim.log):
            publish(client, models[1], 1)
        successor = worker(queue, redis_url, models, tmp_path, "1").wait_until_serving(START_S)
        wait_until_serves(successor, queue, 1, 60)
        check_served(client, models[1])
        assert not before.result(timeout=60).errors
    finally:
        victim.end()
        if successor is not None:
            successor.end()
