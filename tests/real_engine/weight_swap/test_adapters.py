"""An adapter lives through a swap, and one whose files are gone fails its own requests, not the engine."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rollstream import AsyncClient
from rollstream.producer.demo.tiny_model import write_adapter
from rollstream.schemas import ErrorCode, Keys
from rollstream.worker.adapters.folder import AdapterFolder
from rollstream.worker.adapters.store import AdapterStore
from rollstream.worker.adapters.supply import AdapterSupply
from rollstream.worker.cache_folder import CacheFolder
from rollstream.worker.checkpoints.supply import CheckpointSupply
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.errors import DataError, SwapFailedError
from rollstream.worker.measure.measures import Measures
from rollstream.worker.redis_io.connections import connect
from rollstream.worker.requests import Adapter
from rollstream.worker.versions.make_follower import make_follower
from rollstream.worker.versions.proofs import Proofs
from tests.real_engine.weight_swap.steps import PROMPT, greedy, in_flight, request, serves, swap
from tests.support.engine.transformers_reference import Reference
from tests.support.weights.probes import probe_of
from tests.support.worker_process import until_true

ROW = [(i * 37) % 500 + 3 for i in range(60)]


pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="package")]


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
        followed = make_follower(
            redis=redis,
            keys=keys,
            engine=engine,
            adapters=supply,
            checkpoints=CheckpointSupply(folder=None),
            proofs=Proofs(),
            swap="keep",
            changed=lambda: None,
            measures=Measures(),
        )
        await trainer.publish_policy(1, adapter=adapter_dir / "math@1")
        await followed.begin()
        running = await in_flight(
            engine, [request(adapter=followed.serving.adapter, temperature=0, max_new_tokens=300)]
        )
        right = probe_of([ROW], [reference(models[0], "math@2").logprobs(ROW[:1], ROW[1:])], engine.info.vocab_size)
        await trainer.publish_policy(2, adapter=adapter_dir / "math@2", probe=right)
        followed.swapped.clear()
        following = asyncio.create_task(followed.run())
        await asyncio.wait_for(followed.swapped.wait(), 30)
        new = await greedy(engine, PROMPT, followed.serving.adapter)

        assert not running.done(), "it did not live through the change"
        ((old,),) = await running
        await trainer.publish_policy(3, adapter=adapter_dir / "math@1", probe=right)
        await until_true(lambda: bool(followed.error))
        following.cancel()
    cache.close()

    assert followed.serving.version == 2
    assert "version 3 does not reproduce its probe" in followed.error
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
