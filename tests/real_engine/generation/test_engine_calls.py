"""What the engine says of itself and refuses to start with, calls that are given up, adapters that come late."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from rollstream.producer.demo.tiny_model import write_adapter
from rollstream.schemas import ErrorCode
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.engines.vllm_versions import installed
from rollstream.worker.errors import DataError, SettingsError
from rollstream.worker.requests import Adapter
from tests.support.engine.engine_requests import PROMPT, WITH_LORA, generate, ids, settings

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="package")]


async def test_the_info_is_the_models_own(engine: VllmEngine) -> None:
    info = engine.info

    assert (info.vocab_size, info.max_model_len, info.max_num_seqs) == (512, 1024, 64)
    assert (info.eos_token_ids, info.max_logprobs) == ((2,), 144)
    assert (info.logprobs_flavour, info.has_tokenizer) == ("processed", True)
    assert info.dtype == "float32"
    (version,) = installed().values()
    assert info.runs_on.startswith(f"vllm {version} on ")


async def test_no_collection_of_garbage_walks_what_vllm_imported(engine: VllmEngine, walked: dict[str, int]) -> None:
    assert walked["left_out"] > 10 * walked["objects"]


async def test_without_engine_metrics_vllm_keeps_no_statistics(engine: VllmEngine) -> None:
    series = [family.name for family in REGISTRY.collect() if family.name.startswith("vllm")]

    assert (engine.collectors(), engine._llm.log_stats, engine._llm.logger_manager, series) == ((), False, None, [])


async def test_a_cancelled_call_aborts_its_request_in_the_engine(engine: VllmEngine) -> None:
    call = asyncio.create_task(generate(engine, num_return_sequences=4, ignore_eos=True, max_new_tokens=1000))
    await _until(lambda: _unfinished(engine) == 4)

    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call
    assert _unfinished(engine) == 0
    await engine.check()


async def test_an_interrupt_of_the_terminal_leaves_the_engine_to_its_worker(engine: VllmEngine) -> None:
    call = asyncio.create_task(generate(engine, ignore_eos=True, max_new_tokens=100))
    await _until(lambda: _unfinished(engine) == 1)

    for pid in engine._processes.pids:
        os.kill(pid, signal.SIGINT)

    (found,) = await call
    assert (len(found.token_ids), found.finish_reason) == (100, "length")
    await engine.check()


@WITH_LORA
async def test_concurrent_callers_load_an_adapter_once(engine: VllmEngine, tiny_model: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path, "new@1", model=tiny_model, seed=9)
    adapter = Adapter(name="new@1", int_id=100, path=tmp_path / "new@1")

    await asyncio.gather(*(engine.load_adapter(adapter) for _ in range(10)))

    (found,) = await generate(engine, PROMPT, adapter, temperature=0)
    (base,) = await generate(engine, PROMPT, temperature=0)
    assert ids([found]) != ids([base])


@WITH_LORA
async def test_an_adapter_that_vllm_refuses_may_be_loaded_once_it_is_mended(
    engine: VllmEngine, tiny_model: Path, tmp_path: Path
) -> None:
    folder = write_adapter(tmp_path, "late@1", model=tiny_model, seed=9)
    config = folder / "adapter_config.json"
    kept = config.read_bytes()
    config.unlink()
    adapter = Adapter(name="late@1", int_id=101, path=folder)

    with pytest.raises(DataError) as raised:
        await engine.load_adapter(adapter)
    config.write_bytes(kept)
    await engine.load_adapter(adapter)

    assert raised.value.code == ErrorCode.ADAPTER_REFUSED
    assert str(tmp_path) not in raised.value.message
    assert len(await generate(engine, PROMPT, adapter)) == 1


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"engine_args": {"no_such_argument": 1}}, "no_such_argument"),
        ({"max_model_len": 100_000}, "max_model_len"),
        ({"engine_args": {"logprobs_mode": "nonsense"}}, "logprobs_mode"),
    ],
)
async def test_settings_that_vllm_refuses_are_settings_errors(
    tiny_model: Path, fields: dict[str, Any], says: str
) -> None:
    with pytest.raises(SettingsError, match=says):
        await VllmEngine(settings(tiny_model, **fields)).start()


async def test_a_folder_without_a_model_is_a_settings_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no config\.json"):
        await VllmEngine(settings(tmp_path)).start()


def _unfinished(engine: VllmEngine) -> int:
    """Sequences that vLLM still has."""
    return int(engine._llm.output_processor.get_num_unfinished_requests())


async def _until(reached: Callable[[], bool], timeout_s: float = 20) -> None:
    async with asyncio.timeout(timeout_s):
        while not reached():  # noqa: ASYNC110 - vLLM has no event for it
            await asyncio.sleep(0.01)
