"""A swap that would leave old weights behind is refused before anything is loaded; the model serves on as it is."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from rollstream.schemas import GenerationConfig
from rollstream.worker.config import WorkerSettings
from rollstream.worker.engine import GenerateRequest
from rollstream.worker.engines.vllm.engine import VllmEngine
from rollstream.worker.engines.vllm.swappable import tied, tied_heads, why_not
from rollstream.worker.errors import CheckpointRefusedError
from tests.support.engine_requests import end
from tests.support.transformers_reference import Reference

# After our engine, which prepares the environment that vLLM reads while it is imported.
from vllm.model_executor.layers.attention import MLAAttention  # isort: skip
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod  # isort: skip
from vllm.model_executor.layers.linear import UnquantizedLinearMethod  # isort: skip
from vllm.model_executor.layers.mamba.mamba_mixer import MambaMixer  # isort: skip
from vllm.model_executor.layers.quantization.fp8 import Fp8LinearMethod, Fp8MoEMethod  # isort: skip
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding  # isort: skip

PROMPT = [5, 6, 7, 20]

SHAPE: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 512, "max_position_embeddings": 256, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64,
    "decoder_sparse_step": 1, "mlp_only_layers": [],
}  # fmt: skip


def write_mixture(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3_moe", **SHAPE)).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.15)
    model.save_pretrained(folder)
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mixture(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[VllmEngine, Path]]:
    """A mixture-of-experts model that runs, and the folder with its weights and those of a later step."""
    root = tmp_path_factory.mktemp("mixture")
    for step in range(2):
        write_mixture(root / f"step-{step}", step)
    fields: dict[str, Any] = {"dtype": "float32", "kv_cache_bytes": 16 * 2**20, "max_num_seqs": 4}
    engine = VllmEngine(WorkerSettings(policy="test", model=root / "step-0", **fields))
    await engine.start()
    yield engine, root
    await end(engine)


@pytest.mark.vllm
@pytest.mark.asyncio(loop_scope="module")
async def test_experts_on_the_cpu_are_not_swapped_and_the_old_ones_serve_on(mixture: tuple[VllmEngine, Path]) -> None:
    engine, root = mixture
    config = GenerationConfig(max_new_tokens=8, ignore_eos=True, temperature=0)

    async def serves_the_old(name: str) -> None:
        (found,) = await engine.generate(
            GenerateRequest(request_id=name, prompt=PROMPT, config=config, stop_token_ids=(), seed=None, adapter=None)
        )
        expected = Reference(root / "step-0").logprobs(PROMPT, found.token_ids.tolist())
        assert found.logprobs == pytest.approx(expected, abs=1e-4)
        assert found.version_spans == ((0, 8),)

    await serves_the_old("before")

    with pytest.raises(CheckpointRefusedError, match=r"layers\.0\.mlp\.experts.* is a mixture of experts.*CPU build"):
        await asyncio.wait_for(engine.load_checkpoint(1, root / "step-1", "keep"), 60)

    assert engine.policy_version == 0
    await serves_the_old("after")


def bare(kind: Any) -> Any:
    """One of vLLM's, not set up: what counts is which of them a model has."""
    made = kind.__new__(kind)
    if isinstance(made, torch.nn.Module):
        torch.nn.Module.__init__(made)
    return made


def layer(method: Any = None, kind: Any = torch.nn.Identity) -> Any:
    made = bare(kind)
    if method is not None:
        made.quant_method = bare(method)
    return made


def model(**layers: torch.nn.Module) -> Any:
    return torch.nn.ModuleDict({"proj": layer(UnquantizedLinearMethod), **layers})


def vllm_config(**fields: Any) -> Any:
    return SimpleNamespace(
        load_config=SimpleNamespace(load_format=fields.get("load_format", "auto")),
        parallel_config=SimpleNamespace(enable_eplb=fields.get("enable_eplb", False)),
        cache_config=SimpleNamespace(**{name: fields[name] for name in ("calculate_kv_scales",) if name in fields}),
        offload_config=SimpleNamespace(uva=SimpleNamespace(cpu_offload_gb=fields.get("cpu_offload_gb", 0))),
    )


@pytest.mark.parametrize(
    ("layers", "on_cpu", "says"),
    [
        ({}, True, ""),
        ({"mlp": layer(UnquantizedFusedMoEMethod)}, False, ""),
        ({"mlp": layer(UnquantizedFusedMoEMethod)}, True, "its layer mlp is a mixture of experts"),
        ({"mlp": layer(Fp8MoEMethod)}, False, r"mlp is quantised or packed \(Fp8MoEMethod\)"),
        ({"up": layer(Fp8LinearMethod)}, False, r"up is quantised or packed \(Fp8LinearMethod\)"),
        ({"attn": layer(kind=MLAAttention)}, False, r"attn \(MLAAttention\) keeps what it computed"),
        ({"mixer": layer(kind=MambaMixer)}, True, r"mixer \(MambaMixer\) keeps what it computed"),
    ],
)
def test_a_layer_whose_new_weights_are_not_sure_to_be_used_is_named(
    layers: dict[str, Any], on_cpu: bool, says: str
) -> None:
    found = why_not(model(**layers), vllm_config(), on_cpu=on_cpu)

    assert re.fullmatch(f".*{says}.*" if says else "", found), found


@pytest.mark.parametrize(
    ("fields", "says"),
    [({"load_format": "dummy"}, "load_format=dummy"), ({"load_format": "pt"}, "load_format=pt"),
     ({"load_format": "safetensors"}, ""), ({"enable_eplb": True}, "enable_eplb"), ({"cpu_offload_gb": 2}, "gb"),
     ({"calculate_kv_scales": True}, "calculate_kv_scales")],
)  # fmt: skip
def test_a_setting_under_which_a_reload_reads_or_renews_something_else_is_named(
    fields: dict[str, Any], says: str
) -> None:
    assert says in why_not(model(), vllm_config(**fields), on_cpu=False)
    assert bool(says) == bool(why_not(model(), vllm_config(**fields), on_cpu=False))


def test_a_head_is_tied_where_its_weight_is_the_embeddings_own() -> None:
    embedding, own, shared = layer(kind=VocabParallelEmbedding), layer(kind=ParallelLMHead), layer(kind=ParallelLMHead)
    embedding.weight = shared.weight = torch.nn.Parameter(torch.ones(2))
    own.weight = torch.nn.Parameter(torch.ones(2))

    assert tied(model(embed=embedding, lm_head=shared)) is True
    assert tied_heads(model(embed=embedding, lm_head=shared)) == [shared]
    assert tied(model(embed=embedding, lm_head=embedding)) is True, "older models have one layer under two names"
    assert tied(model(embed=embedding, lm_head=own)) is False
    assert tied_heads(model(embed=embedding, lm_head=own)) == []
    assert tied(model(embed=embedding)) is None
