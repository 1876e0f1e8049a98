"""What no engine survives ends every call at once; and what weights are called while they are loaded."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio

from rollstream.worker.adapters.folder import AdapterFolder
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.engines.vllm.inside.weight_reload import _as_in_its_checkpoint
from rollstream.worker.errors import EngineDiedError
from tests.support.engine.engine_requests import PROMPT, generate, request, settings, until_under_way

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module")
async def doomed(tiny_model: Path, adapter_dir: Path) -> AsyncIterator[VllmEngine]:
    """An engine for defects that it does not survive."""
    engine = VllmEngine(settings(tiny_model, adapter_dir, engine_timeout_s=20))
    await engine.start()
    yield engine
    await engine.close()


async def test_defect_1_past_the_gate_it_is_an_engine_death_and_no_hang(doomed: VllmEngine) -> None:
    from vllm import SamplingParams
    from vllm.inputs import tokens_input

    async def send_past_the_gate() -> None:
        async for _ in doomed._llm.generate(tokens_input(PROMPT), SamplingParams(seed=1.5), "bad"):
            pass

    bad = asyncio.create_task(send_past_the_gate())
    async with asyncio.timeout(15):
        await asyncio.wait([bad])
        with pytest.raises(EngineDiedError):
            await generate(doomed)
        with pytest.raises(EngineDiedError):
            await doomed.check()
    assert bad.exception() is not None


async def test_defect_10_every_call_ends_when_the_engine_is_killed_and_what_had_arrived_stays(
    doomed: VllmEngine, adapter_dir: Path, tiny_model: Path
) -> None:
    adapter = AdapterFolder(root=adapter_dir, max_rank=16, model=tiny_model).find("math@1")
    asked = request(doomed, max_new_tokens=900, num_return_sequences=4, ignore_eos=True, seed=3)
    running = asyncio.create_task(doomed.generate(asked))
    await until_under_way([doomed], 4, 60)
    before = doomed.partials(asked.request_id)
    (core,) = (psutil.Process(pid) for pid in doomed._processes.pids)
    core.suspend()  # so that the calls below are on their way when it dies
    calls = [
        running,
        asyncio.create_task(doomed.load_adapter(adapter)),
        asyncio.create_task(doomed.check()),
        asyncio.create_task(doomed.next_tokens("next", PROMPT, 4, None)),
    ]
    await asyncio.sleep(0)

    core.send_signal(signal.SIGKILL)

    async with asyncio.timeout(30):
        ends = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(end) for end in ends] == [EngineDiedError] * 4
        for call in (generate(doomed), doomed.load_adapter(adapter), doomed.check()):
            with pytest.raises(EngineDiedError):
                await call
        after = doomed.partials(asked.request_id)
        await doomed.close()
        await doomed.close()
    assert not core.is_running()
    for one, earlier in zip(after, before, strict=True):
        known = earlier.completion.token_ids.tolist()
        assert one.completion.token_ids[: len(known)].tolist() == known


async def test_while_weights_are_loaded_a_layer_with_lora_is_found_by_its_name_in_the_checkpoint() -> None:
    from torch import nn
    from vllm.lora.layers import BaseLayerWithLoRA

    class Around(BaseLayerWithLoRA):  # type: ignore[misc] # vLLM has no complete types
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.base_layer = layer

    model = nn.Module()
    model.block = nn.Sequential(Around(nn.Linear(2, 2, bias=False)), nn.Linear(2, 2, bias=False))
    model.logits_processor = Around(nn.Identity())

    def names() -> list[str]:
        return [name for name, _ in model.named_parameters()]

    def fail_half_way() -> None:
        with _as_in_its_checkpoint(model):
            assert names() == ["block.0.weight", "block.1.weight"]
            assert isinstance(model.logits_processor, Around)
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way()
    assert names() == ["block.0.base_layer.weight", "block.1.weight"]
