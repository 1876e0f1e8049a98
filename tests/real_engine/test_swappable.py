"""A swap that would leave old weights behind is refused before anything is loaded; the model serves on as it is."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import rollstream.worker.engines.vllm.engine  # noqa: F401 - it prepares the environment that vLLM reads at its import
from rollstream.worker.engines.vllm.inside.swappable import tied, tied_heads, why_not, wrong_on_cpu, wrong_with_adapters

# After our engine.
from vllm.model_executor.layers.attention import MLAAttention  # isort: skip
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod  # isort: skip
from vllm.model_executor.layers.linear import UnquantizedLinearMethod  # isort: skip
from vllm.model_executor.layers.mamba.mamba_mixer import MambaMixer  # isort: skip
from vllm.model_executor.layers.quantization.fp8 import Fp8LinearMethod, Fp8MoEMethod  # isort: skip
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding  # isort: skip


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


def with_biases(experts: Any) -> Any:
    experts.w13_bias = torch.nn.Parameter(torch.ones(2))
    return experts


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
        ({"mlp": layer(UnquantizedFusedMoEMethod)}, True, "its layer mlp is a mixture of experts .* cannot be made"),
        ({"mlp": with_biases(layer(UnquantizedFusedMoEMethod))}, False, "mlp is a mixture of experts with biases"),
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


def test_what_was_seen_to_be_computed_wrong_on_the_cpu_is_named() -> None:
    assert "for Cohere2ForCausalLM: run this model on a GPU" in wrong_on_cpu(["Cohere2ForCausalLM"])
    assert wrong_on_cpu(["LlamaForCausalLM"]) == ""


def test_adapters_that_were_seen_wrong_are_refused_by_name() -> None:
    assert "adapters of Llama4ForCausalLM" in wrong_with_adapters(["Llama4ForCausalLM"])
    assert wrong_with_adapters(["LlamaForCausalLM"]) == ""


@pytest.mark.parametrize(
    ("dtype", "copied", "on_cpu", "is_doubted"),
    [
        (torch.float32, False, True, False),
        (torch.bfloat16, False, True, False),
        (torch.float16, False, False, False),
        (torch.float16, False, True, True),
        (torch.float32, True, True, True),
        (torch.float32, True, False, True),
    ],
)
def test_attention_sinks_are_renewed_only_where_the_kernel_has_the_models_own(
    dtype: torch.dtype, copied: bool, on_cpu: bool, is_doubted: bool
) -> None:
    attention = layer()
    attention.sinks = torch.nn.Parameter(torch.ones(2, dtype=dtype))
    attention.impl = SimpleNamespace(sinks=attention.sinks.clone() if copied else attention.sinks)

    found = why_not(model(attn=attention), vllm_config(), on_cpu=on_cpu)

    assert ("its layer attn keeps a copy of its attention sinks" in found) is is_doubted


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
