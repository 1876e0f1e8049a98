"""One test for each defect of vLLM that corrupts or would kill an engine, which ours survives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import pytest_asyncio

from rollstream.producer.demo.tiny_model import write_adapter
from rollstream.schemas import ErrorCode, GenerationConfig
from rollstream.worker.adapters.folder import AdapterFolder
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.errors import DataError, EngineDiedError
from rollstream.worker.jobs import request_checks
from rollstream.worker.requests import Adapter, Completion, GenerateRequest
from tests.support.engine.engine_requests import end

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]


PROMPT = [5, 6, 7, 8]


LONG_PROMPT = [(i * 37) % 500 + 3 for i in range(300)]


def settings(model: Path, adapters: Path) -> WorkerSettings:
    return WorkerSettings(
        policy="test",
        model=model,
        adapter_dir=adapters,
        dtype="float32",
        kv_cache_bytes=64 * 2**20,
        max_num_seqs=32,
        max_loras=3,
        engine_timeout_s=20,
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tiny_model: Path, adapter_dir: Path) -> AsyncIterator[VllmEngine]:
    """An engine for defects that it survives. Started under VLLM_BATCH_INVARIANT=1: see defect 12."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_BATCH_INVARIANT", "1")
        engine = VllmEngine(settings(tiny_model, adapter_dir))
        await engine.start()
    yield engine
    await end(engine)


def request(adapter: Adapter | None = None, prompt: list[int] | None = None, **fields: Any) -> GenerateRequest:
    config = GenerationConfig(**{"max_new_tokens": 8, "ignore_eos": True, **fields})
    return GenerateRequest(
        request_id="test", prompt=prompt or PROMPT, config=config, stop_token_ids=(), seed=config.seed, adapter=adapter
    )


async def serves(engine: VllmEngine) -> bool:
    async with asyncio.timeout(20):
        return len(await engine.generate(request(num_return_sequences=2))) == 2


def tokens(completions: list[Completion]) -> list[list[int]]:
    return [completion.token_ids.tolist() for completion in completions]


BAD_FIELDS: list[dict[str, Any]] = [
    {"max_new_tokens": 5.0},
    {"max_new_tokens": True},
    {"num_return_sequences": True},
    {"top_k": True},
    {"min_new_tokens": 1.0},
    {"logit_bias": {6: "x"}},
    {"allowed_token_ids": (5.0,)},
    {"temperature": "1"},
    {"temperature": np.float32(1)},
]


@pytest.mark.parametrize("fields", BAD_FIELDS, ids=str)
async def test_defect_1_a_wrong_type_never_reaches_the_engine(engine: VllmEngine, fields: dict[str, Any]) -> None:
    unchecked = GenerationConfig.model_construct(**{"max_new_tokens": 8, **fields})

    with pytest.raises(DataError) as raised:
        await engine.generate(
            GenerateRequest(
                request_id="bad", prompt=PROMPT, config=unchecked, stop_token_ids=(2,), seed=None, adapter=None
            )
        )

    assert raised.value.code == ErrorCode.ENGINE_REFUSED
    assert await serves(engine)


@pytest.mark.parametrize("bad", [{"seed": 1.5}, {"stop": (True,)}, {"prompt": [5.0]}, {"prompt": [5, True]}], ids=str)
async def test_defect_1_nor_does_a_wrong_seed_stop_id_or_prompt(engine: VllmEngine, bad: dict[str, Any]) -> None:
    config = GenerationConfig(max_new_tokens=8)
    wrong = GenerateRequest(
        request_id="bad",
        prompt=bad.get("prompt", PROMPT),
        config=config,
        stop_token_ids=bad.get("stop", ()),
        seed=bad.get("seed"),
        adapter=None,
    )

    with pytest.raises(DataError) as raised:
        await engine.generate(wrong)

    assert raised.value.code == ErrorCode.ENGINE_REFUSED
    assert await serves(engine)


@pytest.mark.parametrize("prompt", [[5, -1], [5, 512], [2**30]])
async def test_defect_2_an_id_outside_the_vocabulary_is_stopped_by_the_guard(
    engine: VllmEngine, prompt: list[int]
) -> None:
    with pytest.raises(DataError) as raised:
        request_checks.check_prompt(np.array(prompt, np.int32), GenerationConfig(max_new_tokens=8), engine.info)

    assert raised.value.code == ErrorCode.TOKEN_OUT_OF_VOCABULARY
    assert await engine.generate(request(prompt=[0, engine.info.vocab_size - 1]))


@pytest.fixture
def bad_adapters(tmp_path: Path, tiny_model: Path) -> Path:
    for name, rank in (("rank@1", 32), ("corrupt@1", 8), ("gone@1", 8)):
        write_adapter(tmp_path, name, model=tiny_model, seed=1, rank=rank)
    weights = tmp_path / "corrupt@1" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    return tmp_path


async def test_defect_3_a_bad_adapter_is_refused_and_the_engine_lives(
    engine: VllmEngine, tiny_model: Path, bad_adapters: Path
) -> None:
    directory = AdapterFolder(root=bad_adapters, max_rank=16, model=tiny_model)
    for name in ("missing@1", "rank@1", "corrupt@1"):
        with pytest.raises(DataError):
            directory.find(name)

    # And what slips through there is refused by `add_lora`.
    for number, name in enumerate(("rank@1", "corrupt@1", "missing@1"), start=50):
        with pytest.raises(DataError) as raised:
            await engine.load_adapter(Adapter(name=name, int_id=number, path=bad_adapters / name))
        assert raised.value.code == ErrorCode.ADAPTER_REFUSED

    assert await serves(engine)


@pytest.mark.parametrize("harm", ["vanished", "truncated"])
async def test_defect_3_an_adapter_that_changed_is_refused_before_vllm_reads_it_again(
    tiny_model: Path, tmp_path: Path, harm: str
) -> None:
    weights = write_adapter(tmp_path, "math@1", model=tiny_model, seed=1) / "adapter_model.safetensors"
    directory = AdapterFolder(root=tmp_path, max_rank=16, model=tiny_model)
    directory.find("math@1")

    if harm == "vanished":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:-100])

    with pytest.raises(DataError, match="changed after it was loaded"):
        directory.find("math@1")


async def test_defect_4_base_rows_among_adapter_rows_stay_base(
    engine: VllmEngine, tiny_model: Path, adapter_dir: Path
) -> None:
    # As many adapters as slots: the last slot, which a base row would fall into, has one.
    directory = AdapterFolder(root=adapter_dir, max_rank=16, model=tiny_model)
    adapters: list[Adapter | None] = [None, *(directory.find(name) for name in ("math@1", "math@2", "code@1"))]
    for adapter in adapters:
        if adapter is not None:
            await engine.load_adapter(adapter)
    greedy: dict[str, Any] = {"temperature": 0, "max_new_tokens": 12}
    alone = [tokens(await engine.generate(request(adapter, **greedy))) for adapter in adapters]

    mixed = await asyncio.gather(*(engine.generate(request(adapter, **greedy)) for adapter in adapters * 4))

    assert [tokens(found) for found in mixed] == alone * 4
    assert len({str(found) for found in alone}) == 4


async def test_defect_5_a_seeded_request_among_long_prefills_is_served(engine: VllmEngine) -> None:
    prompts = [[(i * j) % 500 + 3 for i in range(900)] for j in range(1, 7)]

    found = await asyncio.gather(*(engine.generate(request(prompt=prompt, seed=1)) for prompt in prompts))

    assert [len(completions) for completions in found] == [1] * 6
    assert await serves(engine)


async def test_defect_8_versions_of_an_adapter_do_not_share_a_cached_prefix(
    engine: VllmEngine, tiny_model: Path, tmp_path: Path
) -> None:
    versions = []
    for number in (1, 2):
        folder = write_adapter(tmp_path, f"fresh@{number}", model=tiny_model, seed=number + 20)
        versions.append(Adapter(name=f"fresh@{number}", int_id=70 + number, path=folder))
        await engine.load_adapter(versions[-1])

    async def greedy(adapter: Adapter | None) -> Completion:
        (found,) = await engine.generate(request(adapter, LONG_PROMPT, temperature=0))
        return found

    # Twice each, in turn: the second answer comes from the prefix cache, and must be that of its own version.
    first = [await greedy(adapter) for adapter in (None, *versions)]
    second = [await greedy(adapter) for adapter in (None, *versions)]

    assert tokens(second) == tokens(first)
    for before, after in zip(first, second, strict=True):
        assert after.logprobs == pytest.approx(before.logprobs, abs=1e-5)
    assert len({tuple(found.token_ids) for found in first}) == 3


async def test_defect_11_all_children_come_in_the_one_answer(engine: VllmEngine) -> None:
    # Children that end at very different steps: the ones that were sampled last must not hide the others.
    wanted = request(num_return_sequences=16, max_new_tokens=64, logit_bias={9: 3.0, 11: 3.0}, seed=5)
    wanted = GenerateRequest(
        request_id="children", prompt=PROMPT, config=wanted.config, stop_token_ids=(9, 11), seed=5, adapter=None
    )

    found = await engine.generate(wanted)

    assert len(found) == 16
    assert len({len(completion.token_ids) for completion in found}) > 3
    for completion in found:
        ended = completion.token_ids[-1] in (9, 11)
        assert (completion.finish_reason == "stop") == ended
        assert ended or len(completion.token_ids) == 64


async def test_defect_12_batch_invariance_asked_for_on_the_cpu_is_dropped(engine: VllmEngine) -> None:
    assert "VLLM_BATCH_INVARIANT" not in _environment_of(engine)
    assert await serves(engine)


async def test_defect_10_a_call_under_close_ends_and_no_process_is_left(engine: VllmEngine) -> None:
    """Ends the engine that the tests of this file share: stays the last test."""
    (core,) = _cores(engine)
    call = asyncio.create_task(engine.generate(request(max_new_tokens=900, num_return_sequences=4)))
    await asyncio.sleep(0)

    async with asyncio.timeout(30):
        await engine.close()
        with pytest.raises(EngineDiedError):
            await call

    assert not core.is_running()


def _cores(engine: VllmEngine) -> list[psutil.Process]:
    return [psutil.Process(pid) for pid in engine._processes.pids]


def _environment_of(engine: VllmEngine) -> dict[str, str]:
    (core,) = _cores(engine)
    return core.environ()
