"""Two real engines in one worker say what transformers says: log-probs, LoRA, beams, swaps.

On a GPU, where there is one, so that what other tests say of the CPU is seen there too; else on the CPU.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch

from rollstream.producer.demo.tiny_model import write_adapter, write_model
from rollstream.schemas import GenerationConfig
from rollstream.worker.adapters.folder import AdapterFolder
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engine import Engine, GenerateRequest, SwapMode
from rollstream.worker.engines.replicas import Replicas, settings_of_one
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.jobs.beam_search import beam_search
from tests.support.engine_requests import end, until_under_way
from tests.support.transformers_reference import Reference

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

T = TypeVar("T")
PROMPT = [5, 6, 7, 8]
LONG = 960
"""Tokens, as many as fit: two engines share two cores, and none may be done before the other has begun."""
DTYPE, ATOL = ("float16", 0.1) if torch.cuda.is_available() else ("float32", 1e-4)
"""vLLM's LoRA kernels on CUDA take no float32. Nats: another adapter or other weights are whole nats away."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("gpu")
    return [write_model(root / f"v{seed}", seed=seed, tokenizer=False) for seed in range(2)]


@pytest.fixture(scope="module")
def adapters(models: list[Path]) -> Path:
    root = models[0].parent / "adapters"
    write_adapter(root, "math@1", model=models[0], seed=1)
    return root


@pytest.fixture(scope="module")
def run() -> Iterator[Callable[[Awaitable[Any]], Any]]:
    with asyncio.Runner() as runner:

        async def wait(what: Awaitable[T]) -> T:
            return await what

        yield lambda what: runner.run(wait(what))


@pytest.fixture(scope="module")
def engines(models: list[Path], adapters: Path) -> list[VllmEngine]:
    settings = WorkerSettings(
        policy="two", model=models[0], adapter_dir=adapters, dtype=DTYPE, max_num_seqs=64, replicas=2,
        gpu_memory_utilization=0.04, kv_cache_bytes=2**29, engine_args={"enforce_eager": True},
    )  # fmt: skip
    one = settings_of_one(settings)
    return [VllmEngine(one), VllmEngine(one)]


@pytest.fixture(scope="module")
def engine(engines: list[VllmEngine], run: Callable[[Awaitable[Any]], Any]) -> Iterator[Engine]:
    engine = Replicas(engines)
    run(engine.start())
    yield engine
    for one in engines:
        run(end(one))


def request(name: str, adapter: Any = None, prompt: list[int] = PROMPT, **fields: Any) -> GenerateRequest:
    config = GenerationConfig(**{"max_new_tokens": 24, "ignore_eos": True, **fields})
    return GenerateRequest(
        request_id=name, prompt=prompt, config=config, stop_token_ids=(), seed=config.seed, adapter=adapter
    )


def sampled(run: Callable[[Awaitable[Any]], Any], engine: Engine, name: str, adapter: Any = None) -> list[Any]:
    """48 completions over both replicas."""

    async def all_of_them() -> list[Any]:
        asked = (request(f"{name}/{i}", adapter, [*PROMPT, 20 + i], num_return_sequences=8) for i in range(6))
        return await asyncio.gather(*(engine.generate(one) for one in asked))

    return list(enumerate(run(all_of_them())))


def assert_of(found: list[Any], reference: Reference) -> None:
    for number, completions in found:
        for completion in completions:
            tokens = completion.token_ids.tolist()
            expected = reference.logprobs([*PROMPT, 20 + number], tokens)
            assert len(tokens) == 24
            assert completion.logprobs == pytest.approx(expected, abs=ATOL)


def test_logprobs_are_transformers_logprobs(run: Any, engine: Engine, models: list[Path]) -> None:
    assert_of(sampled(run, engine, "base"), Reference(models[0]))


def test_an_adapter_is_the_merged_model_also_beside_base_rows(
    run: Any, engine: Engine, models: list[Path], adapters: Path
) -> None:
    adapter = AdapterFolder(root=adapters, max_rank=16, model=models[0]).find("math@1")
    run(engine.load_adapter(adapter))

    async def both() -> list[Any]:
        asked = [request(f"mixed/{i}", adapter if i % 2 else None, [*PROMPT, 20 + i]) for i in range(16)]
        return await asyncio.gather(*(engine.generate(one) for one in asked))

    references = Reference(models[0]), Reference(models[0], adapters / "math@1")
    for number, (completion,) in enumerate(run(both())):
        tokens = completion.token_ids.tolist()
        expected = references[number % 2].logprobs([*PROMPT, 20 + number], tokens)
        assert completion.logprobs == pytest.approx(expected, abs=ATOL)


def test_greedy_completions_are_the_likeliest(run: Any, engine: Engine, models: list[Path]) -> None:
    (found,) = run(engine.generate(request("greedy", temperature=0.0)))

    logits = Reference(models[0]).logits(PROMPT, found.token_ids.tolist()).log_softmax(-1).numpy()
    chosen = logits[np.arange(24), found.token_ids]
    assert chosen == pytest.approx(logits.max(-1), abs=ATOL)


def test_beams_have_transformers_scores(run: Any, engine: Engine, models: list[Path]) -> None:
    asked = request("beams", num_beams=4, num_return_sequences=2, max_new_tokens=12)
    found = run(beam_search(engine, asked))

    reference = Reference(models[0])
    totals = [reference.logprobs(PROMPT, beam.token_ids.tolist()).sum() / 12 for beam in found]
    assert [beam.score for beam in found] == pytest.approx(totals, abs=ATOL)
    assert found[0].score >= found[1].score
    greedy = run(engine.generate(request("one", temperature=0.0, max_new_tokens=12)))[0]
    assert found[0].score >= float(greedy.logprobs.sum()) / 12 - ATOL


@pytest.mark.parametrize("mode", ["keep", "wait", "abort"])
def test_new_weights_are_served_after_a_swap_and_spans_say_from_which_token_on(
    run: Any, engine: Engine, engines: list[VllmEngine], models: list[Path], mode: SwapMode
) -> None:
    before = engine.policy_version
    target = models[(before + 1) % 2]

    async def swap() -> list[Any]:
        asked = [request(f"{mode}/{i}", None, [*PROMPT, 20 + i], max_new_tokens=LONG) for i in range(16)]
        running = [asyncio.create_task(engine.generate(one)) for one in asked]
        await until_under_way(engines, 16, 32)
        await engine.load_checkpoint(before + 1, target, mode)
        return [completion for completions in await asyncio.gather(*running) for completion in completions]

    crossed = run(swap())

    after = engine.policy_version
    sampled_by = {"keep": {before, after}, "wait": {before}, "abort": {after}}[mode]
    assert after == before + 1
    assert {sum(tokens for _, tokens in found.version_spans) for found in crossed} == {LONG}
    assert all({version for version, _ in found.version_spans} == sampled_by for found in crossed)
    assert_of(sampled(run, engine, f"after-{mode}"), Reference(target))
