"""Small models of random weights, of the families that people train, for benchmarks and tables on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SHAPE: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
    "intermediate_size": 128, "vocab_size": 512, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
_EXPERTS: dict[str, Any] = {"num_experts_per_tok": 2}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("llama", {}),
    "Llama, tied": ("llama", {"tie_word_embeddings": True}),
    "Qwen2": ("qwen2", {}),
    "Qwen3": ("qwen3", {}),
    "Gemma 2": ("gemma2", {"query_pre_attn_scalar": 32}),
    "Gemma 3": ("gemma3_text", {"query_pre_attn_scalar": 32}),
    "Mistral": ("mistral", {}),
    "Phi-3": ("phi3", {}),
    "OLMo 2": ("olmo2", {}),
    "Granite": ("granite", {}),
    "SmolLM3": ("smollm3", {}),
    "GPT-2": ("gpt2", {}),
    "Qwen3-MoE": (
        "qwen3_moe",
        {**_EXPERTS, "num_experts": 4, "decoder_sparse_step": 1, "mlp_only_layers": [], "moe_intermediate_size": 64},
    ),
    "Mixtral": ("mixtral", {**_EXPERTS, "num_local_experts": 4, "intermediate_size": 96}),
}
"""`model_type` and what differs from `SHAPE`."""
_GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 512, "vocab_size": 512, "bos_token_id": 1,
         "eos_token_id": 2}  # fmt: skip


def make(family: str, seed: int, spread: float = 0.1) -> Any:
    """A transformers model in float32, whose matrices are normal with the standard deviation `spread`."""
    import torch  # noqa: PLC0415 - slow to import
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415 - the same

    kind, fields = FAMILIES[family]
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, **(_GPT2 if kind == "gpt2" else {**SHAPE, **fields}))
    model = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, spread)
    return model


def step(model: Any, seed: int, size: float) -> None:
    """Change all matrices a little, as an optimiser's step does."""
    import torch  # noqa: PLC0415 - slow to import

    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.add_(torch.randn_like(parameter), alpha=size)


def save(model: Any, folder: Path, dtype: str) -> Path:
    """Write the model as a checkpoint of `dtype`; the model itself is not changed."""
    import copy  # noqa: PLC0415 - beside torch

    import torch  # noqa: PLC0415 - slow to import
    from transformers.utils.logging import disable_progress_bar  # noqa: PLC0415 - the same

    disable_progress_bar()
    written = copy.deepcopy(model).to(getattr(torch, dtype))
    written.save_pretrained(folder)
    return folder
