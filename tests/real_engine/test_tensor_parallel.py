"""On two GPUs: an engine whose weights are split over both is swapped as any other, and workers on each swap at once.

Skipped where there are fewer. Like `test_two_engines`, against transformers.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from rollstream import Client
from rollstream.producer.demo.embedded_redis import EmbeddedRedis
from rollstream.producer.demo.tiny_model import write_adapter, write_model
from rollstream.producer.probes.make_probe import make_probe
from rollstream.schemas import GenerationConfig
from rollstream.worker.adapters.folder import AdapterFolder
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engine import Score
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.errors import ProofFailedError
from rollstream.worker.requests import Adapter, GenerateRequest, ScoreRequest
from rollstream.worker.weights import checkpoint
from tests.support.engine.engine_requests import end, until_under_way
from tests.support.engine.transformers_reference import Reference
from tests.support.faults import Queue
from tests.support.weights.versions import wait_until_reported
from tests.support.worker_process import WorkerProcess

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(400),
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are not two GPUs"),
]

T = TypeVar("T")
Run = Callable[[Awaitable[Any]], Any]
PROMPT = [5, 6, 7, 8]
ROW = [(i * 37) % 500 + 3 for i in range(100)]
LONG = 960
ATOL = 0.1
"""Nats, in float16: other weights are whole nats away."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("parallel")
    return [write_model(root / f"v{seed}", seed=seed, tokenizer=False) for seed in range(3)]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with asyncio.Runner() as runner:

        async def wait(what: Awaitable[T]) -> T:
            return await what

        yield lambda what: runner.run(wait(what))


@pytest.fixture(scope="module")
def adapters(models: list[Path]) -> Path:
    root = models[0].parent / "adapters"
    write_adapter(root, "math@1", model=models[0], seed=1)
    return root


@pytest.fixture(scope="module")
def engine(models: list[Path], adapters: Path, run: Run) -> Iterator[VllmEngine]:
    engine = VllmEngine(
        WorkerSettings(
            policy="two", model=models[0], adapter_dir=adapters, dtype="float16", max_num_seqs=64,
            tensor_parallel_size=2, gpu_memory_utilization=0.04, kv_cache_bytes=2**28,
            engine_args={"enforce_eager": True},
        )
    )  # fmt: skip
    run(engine.start())
    yield engine
    run(end(engine))


@pytest.fixture(scope="module")
def adapter(engine: VllmEngine, models: list[Path], adapters: Path, run: Run) -> Adapter:
    """Loaded."""
    found = AdapterFolder(root=adapters, max_rank=16, model=models[0]).find("math@1")
    run(engine.load_adapter(found))
    return found


def request(name: str, adapter: Adapter | None = None, **fields: Any) -> GenerateRequest:
    config = GenerationConfig(**{"max_new_tokens": 24, "ignore_eos": True, **fields})
    return GenerateRequest(request_id=name, prompt=PROMPT, config=config, stop_token_ids=(), seed=None, adapter=adapter)


def assert_serves(run: Run, engine: VllmEngine, reference: Reference, adapter: Adapter | None = None) -> None:
    for found in run(engine.generate(request(f"check-{time.monotonic_ns()}", adapter, num_return_sequences=8))):
        expected = reference.logprobs(PROMPT, found.token_ids.tolist())
        assert found.logprobs == pytest.approx(expected, abs=ATOL)


class Proves:
    """Whether weights give a row the log-probs of `reference`."""

    def __init__(self, reference: Reference) -> None:
        self._known = reference.logprobs(ROW[:1], ROW[1:])
        self.asked = 0

    async def __call__(self, score: Score) -> None:
        self.asked += 1
        found = await score(ScoreRequest(request_id="row", token_ids=ROW, first=1, top_logprobs=0, adapter=None))
        off = float(np.abs(found.logprobs - self._known).max())
        if off > ATOL:
            raise ProofFailedError(found.version, f"it is {off:.2f} nats off", off, off)


@pytest.mark.parametrize("prepared", [True, False], ids=["prepared", "from files"])
def test_new_weights_are_proven_and_served_by_both_halves_with_an_adapter_beside_them(
    run: Run, engine: VllmEngine, adapter: Adapter, models: list[Path], adapters: Path, prepared: bool
) -> None:
    before = engine.policy_version
    target = models[1 + before % 2]
    proof = Proves(Reference(target))

    async def swap() -> list[Any]:
        content = checkpoint.read_content(target)
        asked = [request(f"{before}/{i}", adapter if i % 2 else None, max_new_tokens=LONG) for i in range(16)]
        running = [asyncio.create_task(engine.generate(one)) for one in asked]
        await until_under_way([engine], 16, 32)
        if prepared:
            await engine.prepare(target, content)
            assert await engine._llm.collective_rpc("rollstream_staged") == ["", ""]
        await engine.load_checkpoint(before + 1, target, "keep", content, proof)
        return [one for completions in await asyncio.gather(*running) for one in completions]

    crossed = run(swap())

    assert proof.asked == 1
    assert all([version for version, _ in one.version_spans] == [before, before + 1] for one in crossed)
    assert_serves(run, engine, Reference(target))
    assert_serves(run, engine, Reference(target, adapters / "math@1"), adapter)


@pytest.mark.parametrize("prepared", [True, False], ids=["prepared", "from files"])
def test_weights_that_fail_their_proof_leave_the_old_ones_in_both_halves(
    run: Run, engine: VllmEngine, models: list[Path], prepared: bool
) -> None:
    before = engine.policy_version
    serving = models[1 + (before - 1) % 2] if before else models[0]
    target = models[1 + before % 2]

    async def swap() -> Any:
        content = checkpoint.read_content(target)
        running = asyncio.create_task(engine.generate(request(f"fail/{prepared}", max_new_tokens=LONG)))
        await until_under_way([engine], 1, 32)
        if prepared:
            await engine.prepare(target, content)
        with pytest.raises(ProofFailedError, match="nats off"):
            await engine.load_checkpoint(before + 1, target, "keep", content, Proves(Reference(serving)))
        return (await running)[0]

    crossed = run(swap())

    assert engine.policy_version == before
    assert {version for version, _ in crossed.version_spans} == {before}
    assert_serves(run, engine, Reference(serving))


def test_workers_on_two_gpus_serve_within_a_second_of_an_activation(
    models: list[Path], tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    shutil.copytree(models[1], tmp_path / "step-1")
    probe = make_probe(AutoModelForCausalLM.from_pretrained(models[1]), [ROW])
    flags = (
        "--model", str(models[0]), "--dtype", "float16", "--checkpoint-dir", str(tmp_path), "--max-num-seqs", "64",
        "--gpu-memory-utilization", "0.04", "--kv-cache-bytes", str(2**28), "--engine-args", "enforce_eager=true",
    )  # fmt: skip
    with EmbeddedRedis() as server, Client(server.url, policy="two") as client, Queue(server.url, "two") as queue:
        workers = [
            WorkerProcess(server.url, "two", *flags, env={"CUDA_VISIBLE_DEVICES": str(number)}) for number in range(2)
        ]
        try:
            for worker in workers:
                worker.wait_until_serving(240)
            handle = client.submit(
                [PROMPT] * 64, config=GenerationConfig(max_new_tokens=LONG, num_return_sequences=2, ignore_eos=True)
            )
            client.publish_policy(1, checkpoint=tmp_path / "step-1", probe=probe, activate="by_hand")
            for worker in workers:
                wait_until_reported(worker, queue, 60, prepared_version="1", policy_version="0")

            client.activate(1)
            began = time.monotonic()
            client.wait_for_version(1, workers=2, timeout=20)
            flipped_s = time.monotonic() - began

            batch = handle.result(timeout=120)
        finally:
            for worker in workers:
                worker.end()
    record_property("flipped_s", round(flipped_s, 3))
    assert flipped_s < 1
    assert not batch.errors
