"""Two real engines in one worker say what transformers says: log-probs, LoRA, beams, swaps. And they are counted.

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
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from rollstream.producer.demo.tiny_model import write_adapter, write_model
from rollstream.schemas import GenerationConfig
from rollstream.worker.adapters.folder import AdapterFolder
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engine import Engine, SwapMode
from rollstream.worker.engines.replicas import Replicas, settings_of_one
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.jobs.beam_search import beam_search
from rollstream.worker.requests import GenerateRequest
from rollstream.worker.weights import checkpoint
from tests.support.engine.engine_requests import end, until_under_way
from tests.support.engine.transformers_reference import Reference

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

T = TypeVar("T")
PROMPT = [5, 6, 7, 8]
LONG = 480
"""Tokens: two engines share two cores, and none may be done before the other has begun."""
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
        engine_metrics=True, metrics_port="auto",
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


def test_replicas_share_what_is_prepared_and_serve_it(
    run: Any, engine: Engine, engines: list[VllmEngine], models: list[Path]
) -> None:
    version = engine.policy_version + 1
    target = models[version % 2]

    async def swap() -> list[Any]:
        content = checkpoint.read_content(target)
        await engine.prepare(target, content)
        staged = [one._swapper._staging._weights for one in engines if one._swapper is not None]
        await engine.load_checkpoint(version, target, "keep", content)
        return staged

    first, second = run(swap())

    assert first is second is not None
    assert_of(sampled(run, engine, "prepared"), Reference(target))


def measured(engine: Engine) -> dict[str, list[float]]:
    """The value of each series that has no other label than its replica, by replica, as Prometheus reads it."""
    registry = CollectorRegistry()
    for collector in engine.collectors():
        registry.register(collector)
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    assert len({family.name for family in families}) == len(families)
    found: dict[str, list[float]] = {}
    for sample in (sample for family in families for sample in family.samples if len(sample.labels) == 1):
        assert int(sample.labels["replica"]) == len(found.setdefault(sample.name, []))
        found[sample.name].append(sample.value)
    return found


class Counted:
    """What both replicas counted together since this was made; `of_each` has the numbers of each."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._before = engine, measured(engine)

    def of_each(self, name: str) -> list[float]:
        now = measured(self._engine)[f"vllm:{name}"]
        return [after - before for after, before in zip(now, self._before[f"vllm:{name}"], strict=True)]

    def of_all(self, name: str) -> float:
        return sum(self.of_each(name))


def test_each_replica_counts_what_it_generated(run: Any, engine: Engine) -> None:
    counted = Counted(engine)

    sampled(run, engine, "counted")

    assert counted.of_each("generation_tokens_total") == [24 * 24, 24 * 24]
    assert counted.of_each("prompt_tokens_total") == [24 * 5, 24 * 5]
    for name in ("time_to_first_token", "request_time_per_output_token", "request_queue_time", "e2e_request_latency"):
        assert counted.of_each(f"{name}_seconds_count") == [24, 24]
    assert 0 < counted.of_all("time_to_first_token_seconds_sum") < counted.of_all("e2e_request_latency_seconds_sum")
    assert measured(engine)["vllm:num_requests_running"] == [0, 0]


def test_statistics_leave_the_engine_rarely(
    run: Any, engine: Engine, engines: list[VllmEngine], monkeypatch: Any
) -> None:
    messages: list[Any] = []

    def noting(receive: Callable[[], Awaitable[Any]]) -> Callable[[], Awaitable[Any]]:
        async def received() -> Any:
            messages.append(await receive())
            return messages[-1]

        return received

    for client in (one._llm.engine_core for one in engines):
        monkeypatch.setattr(client, "get_output_async", noting(client.get_output_async))

    run(asyncio.wait_for(together(engine, 2, 480), 60))

    told = [message.scheduler_stats for message in messages if message.scheduler_stats is not None]
    assert told
    assert sum(stats.num_running_reqs for stats in told) > 0
    assert len(messages) < 480  # of 960 steps


def test_an_aborted_sequence_runs_no_more(run: Any, engine: Engine, engines: list[VllmEngine]) -> None:
    async def give_up() -> None:
        running = asyncio.create_task(together(engine, 8, LONG))
        await until_under_way(engines, 8, 40)
        assert sum(measured(engine)["vllm:num_requests_running"]) == 8
        running.cancel()
        async with asyncio.timeout(20):
            while measured(engine)["vllm:num_requests_running"] != [0, 0]:  # noqa: ASYNC110 - vLLM has no event for it
                await asyncio.sleep(0.01)

    run(give_up())

    assert measured(engine)["vllm:num_requests_waiting"] == [0, 0]


def test_sequences_that_a_swap_puts_back_are_counted_and_no_token_is_counted_twice(
    run: Any, engine: Engine, engines: list[VllmEngine], models: list[Path]
) -> None:
    counted = Counted(engine)
    version = engine.policy_version + 1

    async def swap() -> None:
        running = asyncio.create_task(together(engine, 8, LONG))
        await until_under_way(engines, 8, 40)
        await engine.load_checkpoint(version, models[version % 2], "keep")
        await running

    run(swap())

    looked_at = 2 * 3  # rows by which each engine knows its old weights again: 64 ids, and vLLM samples one more
    assert counted.of_all("generation_tokens_total") == 8 * LONG + looked_at
    assert counted.of_all("num_preemptions_total") == 8
    assert counted.of_all("prompt_tokens_total") == 8 * len(PROMPT) + looked_at * 64


async def together(engine: Engine, sequences: int, tokens: int) -> None:
    """As many completions at once, each of so many tokens."""
    asked = (request(f"together/{i}", prompt=[*PROMPT[1:], 20 + i], max_new_tokens=tokens) for i in range(sequences))
    await asyncio.gather(*(engine.generate(one) for one in asked))
