"""What the real engine samples with an adapter is what PEFT computes with it; else the adapter leaves no trace."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from rollstream.producer.policies.adapter_files import read_adapter
from rollstream.producer.policies.adapter_tensors import Scaling
from rollstream.schemas import ErrorCode, GenerationConfig
from rollstream.worker.adapters.folder import AdapterFolder
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.engines.vllm.inside.adapter_audit import _problem
from rollstream.worker.errors import DataError
from rollstream.worker.requests import Adapter, Completion, GenerateRequest
from tests.support.engine.engine_requests import end
from tests.support.engine.transformers_reference import Reference

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="module")]

PROMPT = [5, 6, 7, 8]
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_ids = itertools.count(1000)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(tiny_model: Path, adapter_dir: Path) -> AsyncIterator[VllmEngine]:
    """An engine with one place for an adapter, which the next adapter takes over."""
    small: dict[str, Any] = {"dtype": "float32", "kv_cache_bytes": 64 * 2**20, "max_num_seqs": 8, "max_loras": 1}
    engine = VllmEngine(WorkerSettings(policy="test", model=tiny_model, adapter_dir=adapter_dir, **small))
    await engine.start()
    yield engine
    await end(engine)


async def greedy(engine: VllmEngine, adapter: Adapter | None) -> Completion:
    config = GenerationConfig(max_new_tokens=12, temperature=0, ignore_eos=True)
    (found,) = await engine.generate(
        GenerateRequest(
            request_id=f"test/{next(_ids)}", prompt=PROMPT, config=config, stop_token_ids=(), seed=None, adapter=adapter
        )
    )
    return found


def trained(tiny_model: Path, **fields: Any) -> Any:
    """A PEFT model whose adapter has weights."""
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    model: Any = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **fields))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_" in name:
                value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    return model.eval()


def logprobs(model: Any, completion: Completion) -> list[float]:
    """PEFT's own, of what the engine sampled."""
    tokens = torch.tensor([PROMPT + completion.token_ids.tolist()])
    with torch.no_grad():
        rows = model(tokens).logits[0].log_softmax(-1)
    found: list[float] = rows[len(PROMPT) - 1 : -1].gather(-1, tokens[0, len(PROMPT) :, None])[:, 0].tolist()
    return found


ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
WAYS: dict[str, dict[str, Any]] = {
    "plain": {"r": 8, "lora_alpha": 16, "target_modules": ALL},
    "rsLoRA": {"r": 16, "lora_alpha": 16, "use_rslora": True, "target_modules": ["q_proj", "v_proj", "down_proj"]},
    "odd rank, odd alpha": {"r": 5, "lora_alpha": 3, "target_modules": ALL},
    "a part of fused layers": {"r": 4, "lora_alpha": 32, "target_modules": ["k_proj", "up_proj"]},
    "one layer": {"r": 4, "lora_alpha": 32, "target_modules": ALL, "layers_to_transform": [1]},
    "by an expression": {"r": 4, "lora_alpha": 32, "target_modules": r".*\.0\..*_proj"},
    "all but some": {"r": 4, "lora_alpha": 32, "target_modules": "all-linear", "exclude_modules": ["v_proj"]},
    "gaussian": {"r": 4, "lora_alpha": 32, "target_modules": ALL, "init_lora_weights": "gaussian"},
}


@pytest.mark.parametrize("way", WAYS)
async def test_the_engine_computes_what_peft_computes(
    engine: VllmEngine, tiny_model: Path, tmp_path: Path, way: str
) -> None:
    model = trained(tiny_model, **WAYS[way])
    model.save_pretrained(tmp_path / "folder")
    published = await read_adapter(
        "x",
        get_peft_model_state_dict(model),
        Scaling(peft_config=model.peft_config["default"]),
    )
    (tmp_path / "tensors").mkdir()
    (tmp_path / "tensors" / CONFIG_FILE).write_bytes(published.config)
    assert isinstance(published.weights, bytes)
    (tmp_path / "tensors" / WEIGHTS_FILE).write_bytes(published.weights)
    directory = AdapterFolder(root=None, max_rank=16, model=tiny_model)
    base = await greedy(engine, None)

    for route in ("folder", "tensors"):
        found = directory.admit(f"{route}@1", tmp_path / route)
        adapter = Adapter(name=found.name, int_id=next(_ids), path=found.path)
        await engine.load_adapter(adapter)
        sampled = await greedy(engine, adapter)

        assert sampled.logprobs == pytest.approx(logprobs(model, sampled), abs=1e-4)
        assert sampled.logprobs != pytest.approx(base.logprobs, abs=1e-2), "the adapter changes nothing"
        await engine.unload_adapter(adapter)


def _renamed(old: str, new: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda weights: {name.replace(old, new): value for name, value in weights.items()}


def _without(part: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda weights: {name: value for name, value in weights.items() if part not in name}


def _resized(factor: float) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    def resize(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = {}
        for name, value in weights.items():
            side = 1 if "lora_A" in name else 0
            doubled = torch.cat([value, value], dim=side)
            found[name] = doubled.narrow(side, 0, int(value.shape[side] * factor)).contiguous()
        return found

    return resize


def _doubled(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return weights | {name.removeprefix("base_model.model."): value + 1 for name, value in weights.items()}


SPOILT: dict[str, tuple[Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], str]] = {
    "trained without a head": (_renamed("model.model.layers", "model.layers"), r"named as model\.layers\.0\.mlp"),
    "of a parent": (_renamed("layers", "language_model.layers"), r"named as model\.layers\.0\.mlp"),
    "one layer of FSDP": (_renamed("layers.1.", "_fsdp_wrapped_module.layers.1."), r"\(and for 6 more\)"),
    "a layer too many": (_renamed("layers.1.", "layers.7."), r"its tensors for model\.layers\.7"),
    "lora_A is missing": (_without("layers.1.self_attn.o_proj.lora_A"), "adapter"),
    "lora_B is missing": (_without("layers.1.mlp.down_proj.lora_B"), "adapter"),
    "too large": (_resized(2), "adapter"),
    "too small": (_resized(0.5), "made for another model"),
    "twice": (_doubled, "vLLM used 28 of its 56 tensors"),
    "scaled to infinity": (
        lambda weights: {name: torch.full_like(value, 3e38) for name, value in weights.items()},
        "overflow",
    ),
    "on a layer that vLLM leaves out": (_renamed("layers.1.mlp.up_proj", "lm_head"), "lm_head"),
}


@pytest.mark.parametrize("how", SPOILT)
async def test_what_cannot_be_loaded_whole_leaves_nothing_in_the_engine(
    engine: VllmEngine, tiny_model: Path, adapter_dir: Path, tmp_path: Path, how: str
) -> None:
    """Also past all that a worker checks before."""
    spoil, says = SPOILT[how]
    folder = Path(shutil.copytree(adapter_dir / "math@1", tmp_path / "spoilt"))
    save_file(spoil(load_file(folder / WEIGHTS_FILE)), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    spoilt, good = (
        Adapter(name="spoilt@1", int_id=next(_ids), path=folder),
        Adapter(name="code@1", int_id=next(_ids), path=adapter_dir / "code@1"),
    )
    await engine.load_adapter(good)

    for _ in range(2):
        with pytest.raises(DataError, match=says) as raised:
            await engine.load_adapter(spoilt)
        assert raised.value.code == ErrorCode.ADAPTER_REFUSED
        with pytest.raises(DataError):
            await greedy(engine, spoilt)
        assert spoilt.int_id not in await engine._llm.list_loras()
    sampled = await greedy(engine, good)

    expected = Reference(tiny_model, adapter_dir / "code@1").logprobs(PROMPT, sampled.token_ids.tolist())
    assert sampled.logprobs == pytest.approx(expected, abs=1e-4)
    await engine.unload_adapter(good)


async def test_one_for_an_output_layer_that_takes_it_is_refused() -> None:
    """Llama's does; vLLM would compute the scores of such an adapter without it, or end on the CPU."""
    manager = SimpleNamespace(modules={"lm_head": None, "model.layers.0.mlp.down_proj": None})

    found = _problem(manager, {"lm_head": None}, num_tensors=2)

    assert "it has tensors for the output layer (lm_head)" in found


async def test_one_is_loaded_while_requests_with_another_fill_every_slot(
    engine: VllmEngine, tiny_model: Path, adapter_dir: Path
) -> None:
    """The next step takes it out again, which is no fault of it."""
    first, second = (Adapter(name=name, int_id=next(_ids), path=adapter_dir / name) for name in ("code@1", "math@1"))
    await engine.load_adapter(first)
    config = GenerationConfig(max_new_tokens=300, temperature=0, ignore_eos=True, logprobs=None)
    running = [
        asyncio.create_task(
            engine.generate(
                GenerateRequest(
                    request_id=f"busy/{n}", prompt=PROMPT, config=config, stop_token_ids=(), seed=None, adapter=first
                )
            )
        )
        for n in range(2)
    ]
    await engine.check()

    await engine.load_adapter(second)

    assert not any(task.done() for task in running)
    sampled = await greedy(engine, second)
    expected = Reference(tiny_model, adapter_dir / "math@1").logprobs(PROMPT, sampled.token_ids.tolist())
    assert sampled.logprobs == pytest.approx(expected, abs=1e-4)
    await asyncio.gather(*running)
    for adapter in (first, second):
        await engine.unload_adapter(adapter)


async def test_one_that_was_mended_is_loaded(engine: VllmEngine, adapter_dir: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(adapter_dir / "math@1", tmp_path / "math"))
    weights = load_file(folder / WEIGHTS_FILE)
    save_file(_resized(0.5)(weights), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    adapter = Adapter(name="math@1", int_id=next(_ids), path=folder)
    with pytest.raises(DataError, match="made for another model"):
        await engine.load_adapter(adapter)

    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    await engine.load_adapter(adapter)

    assert await greedy(engine, adapter)
    await engine.unload_adapter(adapter)
