"""New weights in a running vLLM engine (CPU, float32, tied embeddings), against transformers on the same weights."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import statistics
import time
from collections.abc import AsyncIterator, Callable
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
import torch
from safetensors.torch import load_file, save_file

from rollstream import AsyncClient
from rollstream.producer.demo.tiny_model import write_adapter, write_model
from rollstream.schemas import ErrorCode, GenerationConfig, Keys
from rollstream.worker.adapters.cache_folder import CacheFolder
from rollstream.worker.adapters.folder import AdapterFolder
from rollstream.worker.adapters.store import AdapterStore
from rollstream.worker.adapters.supply import AdapterSupply
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engine import Adapter, Completion, GenerateRequest, SwapMode
from rollstream.worker.engines.vllm import version_spans
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.engines.vllm.version_spans import Spans, Start, Versions, estimated_spans
from rollstream.worker.errors import CheckpointRefusedError, DataError, EngineDiedError, SwapFailedError
from rollstream.worker.jobs.beam_search import beam_search
from rollstream.worker.operations.watchdog import watch
from rollstream.worker.redis_io.connections import connect
from rollstream.worker.versions.follower import VersionFollower
from rollstream.worker.weights import checkpoint
from tests.support.checkpoints import shard
from tests.support.engine_requests import end, until_under_way
from tests.support.transformers_reference import Reference

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

PROMPT = [5, 6, 7, 8]
LONG_PROMPT = [(i * 37) % 500 + 3 for i in range(300)]
_numbers = itertools.count()
_versions = itertools.count(1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four sets of weights of one model; the engine boots with the first."""
    root = tmp_path_factory.mktemp("tied")
    return [write_model(root / f"step-{seed}", seed=seed + 30, tied=True, tokenizer=False) for seed in range(4)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(models: list[Path], adapter_dir: Path) -> AsyncIterator[VllmEngine]:
    with pytest.MonkeyPatch.context() as patch:
        # oneDNN keeps code and buffers of 1024 shapes, which looks like a leak for as long as new shapes come.
        patch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8")
        engine = VllmEngine(settings(models[0], adapter_dir))
        await engine.start()
    yield engine
    await end(engine)


@pytest.fixture(scope="module")
def reference(adapter_dir: Path) -> Callable[..., Reference]:
    return cache(lambda model, name=None: Reference(model, None if name is None else adapter_dir / name))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def adapters(engine: VllmEngine, adapter_dir: Path, models: list[Path]) -> dict[str, Adapter]:
    """Loaded."""
    directory = AdapterFolder(root=adapter_dir, max_rank=16, model=models[0])
    found = {name: directory.find(name) for name in ("math@1", "math@2")}
    for adapter in found.values():
        await engine.load_adapter(adapter)
    return found


def settings(model: Path, adapter_dir: Path | None = None) -> WorkerSettings:
    return WorkerSettings(
        policy="test", model=model, adapter_dir=adapter_dir, dtype="float32", kv_cache_bytes=64 * 2**20,
        max_num_seqs=32, engine_timeout_s=20,
    )  # fmt: skip


def request(prompt: list[int] = PROMPT, adapter: Adapter | None = None, **fields: Any) -> GenerateRequest:
    config = GenerationConfig(**{"max_new_tokens": 24, "ignore_eos": True, **fields})
    return GenerateRequest(
        request_id=f"test/{next(_numbers)}",
        prompt=prompt,
        config=config,
        stop_token_ids=(),
        seed=config.seed,
        adapter=adapter,
    )


async def swap(engine: VllmEngine, folder: Path, mode: SwapMode = "keep") -> int:
    version = next(_versions)
    await engine.load_checkpoint(version, folder, mode)
    assert engine.policy_version == version
    return version


async def greedy(engine: VllmEngine, prompt: list[int] = PROMPT, adapter: Adapter | None = None) -> Completion:
    (found,) = await engine.generate(request(prompt, adapter, temperature=0))
    return found


async def serves(engine: VllmEngine, reference: Reference, prompt: list[int] = PROMPT) -> bool:
    """Whether greedy tokens and their log-probs are those of transformers."""
    found = await greedy(engine, prompt)
    expected, _ = reference.generate(prompt, 24, eos_token_id=None)
    same = [found.token_ids.tolist()] == expected
    return same and found.logprobs == pytest.approx(reference.logprobs(prompt, expected[0]), abs=1e-4)


async def in_flight(engine: VllmEngine, requests: list[GenerateRequest], tokens: int = 20) -> asyncio.Future[Any]:
    """The answers to come, once each sequence has `tokens` tokens."""
    answers = asyncio.gather(*(engine.generate(one) for one in requests))
    sequences = sum(one.config.num_return_sequences for one in requests)
    await until_under_way([engine], sequences, tokens)
    return answers


async def test_greedy_is_that_of_the_weights_before_and_after_each_swap(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference]
) -> None:
    assert engine.policy_version == 0
    assert await serves(engine, reference(models[0]))
    assert (await greedy(engine)).version_spans == ((0, 24),)

    for model in (models[1], models[2], models[0], models[1]):
        version = await swap(engine, model)

        assert await serves(engine, reference(model))
        assert (await greedy(engine)).version_spans == ((version, 24),)


async def test_a_prompt_in_the_prefix_cache_is_computed_again(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference]
) -> None:
    for model in (models[0], models[1]):
        await swap(engine, model)
        for _ in range(2):
            assert await serves(engine, reference(model), LONG_PROMPT)


async def test_weights_that_make_nan_leave_nothing_behind(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference], tmp_path: Path
) -> None:
    folder = shutil.copytree(models[0], tmp_path / "nan")
    weights = load_file(folder / "model.safetensors")
    save_file({name: torch.full_like(tensor, 3e38) for name, tensor in weights.items()}, folder / "model.safetensors")
    await swap(engine, folder)
    prompts = [[*LONG_PROMPT, number] for number in range(10)]
    await asyncio.gather(*(greedy(engine, prompt) for prompt in prompts), return_exceptions=True)

    await swap(engine, models[0])

    for _ in range(10):
        assert await serves(engine, reference(models[0]))


async def test_what_is_kept_goes_on_with_the_new_weights_from_the_token_that_its_spans_say(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference], adapters: dict[str, Adapter]
) -> None:
    before = await swap(engine, models[0])
    names = [None, None, "math@1", "math@2"]
    # More than two KV blocks, so that stale ones would be used again.
    prompts = [PROMPT, LONG_PROMPT, LONG_PROMPT, PROMPT]
    requests = [
        request(prompt, adapters[name] if name else None, num_return_sequences=2, seed=7, max_new_tokens=120)
        for prompt, name in zip(prompts, names, strict=True)
    ]
    answers = await in_flight(engine, requests)

    after = await swap(engine, models[1], "keep")

    for prompt, name, completions in zip(prompts, names, await answers, strict=True):
        for found in completions:
            (first, old), (second, new) = found.version_spans
            assert (first, second, old + new, found.spans_exact) == (before, after, 120, True)
            assert min(old, new) >= 20
            tokens = found.token_ids.tolist()
            by_old = reference(models[0], name).logprobs(prompt, tokens)
            by_new = reference(models[1], name).logprobs(prompt, tokens)
            assert found.logprobs[:old] == pytest.approx(by_old[:old], abs=1e-4)
            assert found.logprobs[old:] == pytest.approx(by_new[old:], abs=1e-4)


async def test_what_is_waited_for_ends_under_the_old_weights_and_what_comes_meanwhile_starts_under_the_new(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference]
) -> None:
    before = await swap(engine, models[0])
    answers = await in_flight(engine, [request(num_return_sequences=4, seed=7, max_new_tokens=200)])

    swapping = asyncio.create_task(swap(engine, models[1], "wait"))
    async with asyncio.timeout(20):
        while not await engine._llm.is_paused():  # noqa: ASYNC110 - vLLM has no event for it
            await asyncio.sleep(0.005)
    assert not answers.done()
    late = asyncio.create_task(greedy(engine))
    await engine.check()
    after = await swapping

    (waited,) = await answers
    assert [found.version_spans for found in waited] == [((before, 200),)] * 4
    expected = reference(models[0]).logprobs(PROMPT, waited[0].token_ids.tolist())
    assert waited[0].logprobs == pytest.approx(expected, abs=1e-4)
    assert (await late).version_spans == ((after, 24),)


async def test_what_is_aborted_is_started_again_with_its_seed(
    engine: VllmEngine, models: list[Path], adapters: dict[str, Adapter]
) -> None:
    await swap(engine, models[0])
    wanted = request(LONG_PROMPT, adapters["math@1"], num_return_sequences=3, seed=7, max_new_tokens=100)
    answers = await in_flight(engine, [wanted])

    after = await swap(engine, models[1], "abort")

    (found,) = await answers
    fresh = await engine.generate(wanted)
    assert [one.version_spans for one in found] == [((after, 100),)] * 3
    assert [one.token_ids.tolist() for one in found] == [one.token_ids.tolist() for one in fresh]


async def test_an_adapter_loaded_before_a_swap_is_there_after_it(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference], adapters: dict[str, Adapter]
) -> None:
    for model in (models[2], models[0]):
        await swap(engine, model)

        assert set(await engine._llm.list_loras()) >= {adapter.int_id for adapter in adapters.values()}
        for name, adapter in adapters.items():
            found = await greedy(engine, PROMPT, adapter)
            expected = reference(model, name).logprobs(PROMPT, found.token_ids.tolist())
            assert found.logprobs == pytest.approx(expected, abs=1e-4)


async def test_a_policy_published_as_adapters_needs_no_pause_and_changes_what_starts(
    engine: VllmEngine,
    models: list[Path],
    reference: Callable[..., Reference],
    adapter_dir: Path,
    redis_url: str,
    tmp_path: Path,
) -> None:
    await swap(engine, models[0])
    directory, cache, keys = (
        AdapterFolder(root=None, max_rank=16, model=models[0]),
        CacheFolder(tmp_path),
        Keys("as-adapters"),
    )
    directory._ids = itertools.count(600)  # the engine has those of other tests
    cache.open()
    async with AsyncClient(redis_url, policy="as-adapters") as trainer, connect(redis_url) as redis:
        supply = AdapterSupply(
            engine=engine,
            folder=directory,
            store=AdapterStore(redis=redis, keys=keys, cache=cache, max_bytes=2**30, cache_bytes=2**30),
        )
        followed = VersionFollower(
            redis=redis, keys=keys, engine=engine, adapters=supply, checkpoints=None, swap="keep", changed=lambda: None
        )
        await trainer.publish_policy(1, adapter=adapter_dir / "math@1")
        await followed.begin()
        running = await in_flight(
            engine, [request(adapter=followed.serving.adapter, temperature=0, max_new_tokens=300)]
        )
        await trainer.publish_policy(2, adapter=adapter_dir / "math@2")
        followed.swapped.clear()
        following = asyncio.create_task(followed.run())
        await asyncio.wait_for(followed.swapped.wait(), 30)
        new = await greedy(engine, PROMPT, followed.serving.adapter)

        assert not running.done(), "it did not live through the change"
        ((old,),) = await running
        following.cancel()
    cache.close()

    assert followed.serving.version == 2
    for found, name in ((old, "math@1"), (new, "math@2")):
        expected = reference(models[0], name).logprobs(PROMPT, found.token_ids.tolist())
        assert found.logprobs == pytest.approx(expected, abs=1e-4)


async def test_an_adapter_whose_files_are_gone_fails_its_requests_and_not_the_engine(
    engine: VllmEngine, models: list[Path], tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path, "gone@1", model=models[0], seed=3)
    adapter = Adapter(name="gone@1", int_id=90, path=folder)
    await engine.load_adapter(adapter)
    running = await in_flight(engine, [request(adapter=adapter, num_return_sequences=2, max_new_tokens=400)])
    kept = folder.rename(tmp_path / "elsewhere")

    await swap(engine, models[1])

    with pytest.raises(DataError) as raised:
        await running
    assert raised.value.code == ErrorCode.ADAPTER_REFUSED
    with pytest.raises(DataError):
        await greedy(engine, PROMPT, adapter)
    assert len((await greedy(engine)).token_ids) == 24
    kept.rename(folder)
    assert len((await greedy(engine, PROMPT, adapter)).token_ids) == 24


async def test_an_adapter_that_vllm_dropped_and_whose_files_are_gone_fails_its_requests_and_not_the_engine(
    engine: VllmEngine, adapter_dir: Path, tmp_path: Path
) -> None:
    def copied(number: int) -> Adapter:
        return Adapter(
            name=f"copy@{number}", int_id=number, path=shutil.copytree(adapter_dir / "math@1", tmp_path / str(number))
        )

    gone, *others = (copied(number) for number in range(700, 706))
    assert len((await greedy(engine, PROMPT, gone)).token_ids) == 24
    for other in others:  # one more than vLLM keeps
        await greedy(engine, PROMPT, other)
    assert gone.int_id not in await engine._llm.list_loras()
    shutil.rmtree(gone.path)

    with pytest.raises(DataError, match="copy@700") as raised:
        await greedy(engine, PROMPT, gone)

    assert raised.value.code == ErrorCode.ADAPTER_REFUSED
    assert len((await greedy(engine)).token_ids) == 24
    for adapter in (gone, *others):
        await engine.unload_adapter(adapter)


async def test_beams_say_which_version_gave_each_token(engine: VllmEngine, models: list[Path]) -> None:
    before = await swap(engine, models[0])
    search = asyncio.create_task(
        beam_search(engine, request(num_beams=3, num_return_sequences=3, max_new_tokens=120, early_stopping="never"))
    )
    steps = 0
    async with asyncio.timeout(20):
        while steps < 20:  # answered steps; each asks for more requests
            steps += _unfinished(engine) > 0
            await asyncio.sleep(0.005)

    after = await swap(engine, models[1])

    for beam in await search:
        assert [version for version, _ in beam.version_spans] == [before, after]
        assert sum(tokens for _, tokens in beam.version_spans) == len(beam.token_ids) == 120


async def test_swaps_asked_for_at_once_happen_one_after_another(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference]
) -> None:
    answers = await in_flight(engine, [request(num_return_sequences=4, max_new_tokens=300)])

    order = await asyncio.gather(*(swap(engine, models[i % 4]) for i in range(7)))

    assert order == sorted(order)
    assert engine.policy_version == order[-1]
    assert await serves(engine, reference(models[2]))
    for found in (await answers)[0]:
        assert sum(tokens for _, tokens in found.version_spans) == 300


async def test_a_swap_whose_caller_gave_up_is_carried_through(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference]
) -> None:
    await swap(engine, models[0])
    version = next(_versions)
    caller = asyncio.create_task(engine.load_checkpoint(version, models[1], "keep"))
    async with asyncio.timeout(20):
        while not await engine._llm.is_paused():  # noqa: ASYNC110 - vLLM has no event for it
            await asyncio.sleep(0)

    caller.cancel()

    with pytest.raises(asyncio.CancelledError):
        await caller
    assert (await greedy(engine)).version_spans == ((version, 24),)
    assert await serves(engine, reference(models[1]))


async def test_a_load_may_take_longer_than_a_step_and_the_watchdog_waits_for_it(
    engine: VllmEngine, models: list[Path], reference: Callable[..., Reference], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine._calls, "_step_limit_s", 2.0)
    (core,) = (psutil.Process(pid) for pid in engine._processes.pids)
    swapping = asyncio.create_task(swap(engine, models[2]))
    async with asyncio.timeout(20):
        while engine._calls._no_load.is_set():  # noqa: ASYNC110 - the load itself tells nobody
            await asyncio.sleep(0)

    core.send_signal(signal.SIGSTOP)
    watching = asyncio.create_task(watch(engine, 2.0))
    try:
        done, _ = await asyncio.wait([swapping, watching], timeout=2.5)
    finally:
        core.send_signal(signal.SIGCONT)

    assert not done
    await swapping
    assert await serves(engine, reference(models[2]))
    await engine.check()
    assert not watching.done()
    watching.cancel()


def drop_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors")


def transpose_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"] = weights["model.layers.1.mlp.up_proj.weight"].T.contiguous()
    save_file(weights, folder / "model.safetensors")


def truncate(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 10_000)


def scribble(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(os.urandom(10_000))


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (drop_tensor, r"tensor model\.layers\.1\.mlp\.up_proj\.weight is missing"),
        (transpose_tensor, r"model\.layers\.1\.mlp\.up_proj\.weight has shape \[128, 256\].*has \[256, 128\]"),
        (truncate, r"model\.safetensors: is truncated"),
        (scribble, r"model\.safetensors: is truncated or no safetensors file"),
    ],
)
async def test_a_broken_checkpoint_is_refused_by_name_and_the_old_weights_serve_on(
    engine: VllmEngine,
    models: list[Path],
    reference: Callable[..., Reference],
    tmp_path: Path,
    harm: Callable[[Path], None],
    says: str,
) -> None:
    version = await swap(engine, models[0])
    broken = write_model(tmp_path / "broken", seed=31, tied=True, tokenizer=False)
    harm(broken)
    answers = await in_flight(engine, [request(max_new_tokens=100)])

    with pytest.raises(CheckpointRefusedError, match=says):
        await engine.load_checkpoint(99, broken, "keep")

    assert (await answers)[0][0].version_spans == ((version, 100),)
    assert await serves(engine, reference(models[0]))


def remove_shard(folder: Path) -> None:
    """Not every vLLM minds."""
    (folder / "model-00002-of-00002.safetensors").unlink()


def scribble_shard(folder: Path) -> None:
    """vLLM fails half way, with layers half loaded."""
    (folder / "model-00002-of-00002.safetensors").write_bytes(os.urandom(10_000))


def write_again(folder: Path) -> None:
    """vLLM loads it without a word, but it is another version than was asked for."""
    shutil.rmtree(folder)
    shard(write_model(folder, seed=33, tied=True, tokenizer=False))


def remove_all(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize("harm", [remove_shard, scribble_shard, remove_all, write_again])
async def test_a_checkpoint_that_goes_bad_after_its_check_leaves_the_old_weights(
    engine: VllmEngine,
    models: list[Path],
    reference: Callable[..., Reference],
    adapters: dict[str, Adapter],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    harm: Callable[[Path], None],
) -> None:
    version = await swap(engine, models[1])
    folder = shard(write_model(tmp_path / "doomed", seed=32, tied=True, tokenizer=False))
    _harm_after_the_check(monkeypatch, harm)
    answers = await in_flight(engine, [request(LONG_PROMPT, num_return_sequences=2, seed=5, max_new_tokens=200)])

    with pytest.raises(SwapFailedError, match=f"still serving {version}"):
        await engine.load_checkpoint(99, folder, "keep")

    assert engine.policy_version == version
    for found in (await answers)[0]:
        assert found.version_spans == ((version, 200),)
        expected = reference(models[1]).logprobs(LONG_PROMPT, found.token_ids.tolist())
        assert found.logprobs == pytest.approx(expected, abs=1e-4)
    assert await serves(engine, reference(models[1]), LONG_PROMPT)
    adapted = await greedy(engine, PROMPT, adapters["math@1"])
    expected = reference(models[1], "math@1").logprobs(PROMPT, adapted.token_ids.tolist())
    assert adapted.logprobs == pytest.approx(expected, abs=1e-4)
    monkeypatch.undo()
    await swap(engine, models[2])
    assert await serves(engine, reference(models[2]))


def _harm_after_the_check(monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], None]) -> None:
    """What a trainer does that removes old checkpoints at the wrong moment."""
    check = checkpoint.check

    def check_then_harm(folder: Path, like: checkpoint.Booted | None) -> None:
        check(folder, like)
        harm(folder)

    monkeypatch.setattr(checkpoint, "check", check_then_harm)


async def test_where_vllm_reports_no_versions_spans_are_estimates_and_say_so(
    engine: VllmEngine, models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await swap(engine, models[0])
    monkeypatch.setattr(version_spans, "reported_spans", lambda *_: None)  # as with vLLM 0.26
    answers = await in_flight(engine, [request(num_return_sequences=2, max_new_tokens=300)])

    after = await swap(engine, models[1])

    for found in (await answers)[0]:
        assert [version for version, _ in found.version_spans] == [before, after]
        assert (sum(tokens for _, tokens in found.version_spans), found.spans_exact) == (300, False)
    assert ((await greedy(engine)).version_spans, (await greedy(engine)).spans_exact) == (((after, 24),), True)


async def test_a_hundred_swaps_under_load_lose_nothing_leak_nothing_and_no_guess_is_called_exact(
    engine: VllmEngine, models: list[Path], adapters: dict[str, Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    guesses = _guessed_beside_what_vllm_reports(monkeypatch)
    known = len(engine._adapters)
    answered: list[Completion] = []
    arrived = asyncio.Event()
    stopping = False

    async def client(number: int) -> None:
        adapter = [None, None, *adapters.values()][number % 4]
        while not stopping:
            answered.extend(await engine.generate(request([5, 6, number], adapter, max_new_tokens=8, seed=number)))
            arrived.set()

    stalls: dict[SwapMode, list[float]] = {"keep": [], "wait": [], "abort": []}
    modes: list[SwapMode] = ["keep", "keep", "keep", "keep", "wait", "keep", "keep", "keep", "keep", "abort"]
    clients = [asyncio.create_task(client(number)) for number in range(4)]
    async with asyncio.timeout(100):
        for number in range(100):
            started = time.perf_counter()
            await swap(engine, models[number % 2], modes[number % 10])
            stalls[modes[number % 10]].append(1000 * (time.perf_counter() - started))
            if number % 10 == 0:
                passing = Adapter(name=f"passing@{number}", int_id=800 + number, path=adapters["math@1"].path)
                await greedy(engine, PROMPT, passing)
                await engine.unload_adapter(passing)
            if number % 2:
                arrived.clear()
                await arrived.wait()
        stopping = True
        await asyncio.gather(*clients)

    assert max(stalls["keep"]) < 10_000, "a swap under load is bounded, on a busy machine too"
    for mode, ms in stalls.items():
        print(f"swap {mode}: median {statistics.median(ms):.0f} ms, worst {max(ms):.0f} ms ({len(ms)})")  # noqa: T201
    assert len(answered) >= 50
    assert {sum(tokens for _, tokens in found.version_spans) for found in answered} == {8}
    assert max(len(found.version_spans) for found in answered) >= 2
    assert {found.spans_exact for found in answered} == {True}
    assert len(engine._adapters) == known
    assert not [int_id for int_id in await engine._llm.list_loras() if int_id >= 800]
    assert _unfinished(engine) == 0
    assert {True, False} == {exact for exact, _ in guesses}
    assert all(right for exact, right in guesses if exact)


def _guessed_beside_what_vllm_reports(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, bool]]:
    """Of each completion: whether a vLLM that reports nothing would have its spans called exact, and be right."""
    found: list[tuple[bool, bool]] = []
    tell = Versions.spans

    def spans(self: Versions, completion: Any, start: Start, until: float) -> tuple[Spans, bool]:
        told, exact = tell(self, completion, start, until)
        guess, sure = estimated_spans(len(completion.token_ids), start, until, self.swaps)
        found.append((sure, guess == told))
        return told, exact

    monkeypatch.setattr(Versions, "spans", spans)
    return found


async def test_swaps_leak_no_memory(engine: VllmEngine, models: list[Path], adapters: dict[str, Adapter]) -> None:
    # Without load: prefills of ever new shapes take memory of their own. A copy of the weights has 1.4 MiB.
    await swap(engine, models[0])
    before = _resident_bytes(engine)

    for number in range(40):
        await swap(engine, models[number % 2])

    grown = _resident_bytes(engine) - before
    print(f"40 swaps: {grown / 2**20:+.2f} MiB")  # noqa: T201
    assert grown < 8 * 2**20
    assert set(await engine._llm.list_loras()) >= {adapter.int_id for adapter in adapters.values()}


def _unfinished(engine: VllmEngine) -> int:
    return int(engine._llm.output_processor.get_num_unfinished_requests())


def _resident_bytes(engine: VllmEngine) -> int:
    return sum(psutil.Process(pid).memory_info().rss for pid in (os.getpid(), *engine._processes.pids))


async def test_an_untied_model_swaps_too_and_ends_when_neither_new_nor_old_weights_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, bad = (write_model(tmp_path / f"step-{seed}", seed=seed, tokenizer=False) for seed in range(3))
    references = {model: Reference(model) for model in (old, new)}
    engine = VllmEngine(settings(old))
    await engine.start()
    try:
        assert await serves(engine, references[old])
        for model in (new, old, new):
            await swap(engine, model)
            assert await serves(engine, references[model], LONG_PROMPT)
        answers = await in_flight(engine, [request(max_new_tokens=400)])

        def same_then_scribble(folder: Path, content: checkpoint.Content) -> bool:
            same = unchanged(folder, content)
            scribble(folder)
            return same

        unchanged = checkpoint.unchanged
        _harm_after_the_check(monkeypatch, scribble)
        monkeypatch.setattr(checkpoint, "unchanged", same_then_scribble)

        with pytest.raises(EngineDiedError, match="neither new weights nor those of version"):
            await engine.load_checkpoint(99, bad, "keep")

        with pytest.raises(EngineDiedError):
            await answers
        with pytest.raises(EngineDiedError):
            await engine.check()
    finally:
        await engine.close()
    assert not engine._processes.pids


async def test_an_unloaded_adapter_is_gone_from_vllm_and_no_swap_misses_its_files(
    engine: VllmEngine, models: list[Path], adapter_dir: Path, tmp_path: Path
) -> None:
    adapter = Adapter(name="gone@1", int_id=990, path=shutil.copytree(adapter_dir / "math@1", tmp_path / "gone@1"))
    await engine.load_adapter(adapter)
    assert 990 in await engine._llm.list_loras()
    shutil.rmtree(adapter.path)

    await engine.unload_adapter(adapter)

    assert 990 not in await engine._llm.list_loras()
    await engine.unload_adapter(adapter)
    await swap(engine, models[1])
    assert (await greedy(engine)).finish_reason == "length"


async def test_an_engine_that_cannot_say_which_adapters_it_has_serves_on(
    engine: VllmEngine,
    models: list[Path],
    reference: Callable[..., Reference],
    adapters: dict[str, Adapter],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def list_loras() -> set[int]:
        raise Exception("Call to list_loras method failed")  # as vLLM does

    version = await swap(engine, models[0])
    monkeypatch.setattr(engine._llm, "list_loras", list_loras)

    with pytest.raises(SwapFailedError, match=f"still serving {version}: Call to list_loras"):
        await engine.load_checkpoint(99, models[1], "keep")

    assert await serves(engine, reference(models[0]))


async def test_old_weights_whose_files_changed_are_not_gone_back_to(
    engine: VllmEngine, models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The last of this engine: it would sample with weights that no version names.
    folder = shutil.copytree(models[0], tmp_path / "served")
    version = await swap(engine, folder)
    write_again(folder)
    _harm_after_the_check(monkeypatch, remove_all)

    with pytest.raises(EngineDiedError, match=f"the files of version {version} changed"):
        await engine.load_checkpoint(99, shutil.copytree(models[1], tmp_path / "doomed"), "keep")

    with pytest.raises(EngineDiedError):
        await greedy(engine)
