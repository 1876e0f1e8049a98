"""Models with random weights, made on the spot: `tiny` for a CPU, Qwen2 shapes of 1.5 and 7 B parameters for a GPU."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rollstream.producer.demo.tiny_model import write_adapter, write_model

if TYPE_CHECKING:
    import torch

VOCABULARY = 151_936
_SIZES: dict[str, dict[str, Any]] = {
    "1.5b": {
        "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
    "7b": {
        "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "tie_word_embeddings": False,
    },
}  # fmt: skip
NAMES = ("tiny", *_SIZES)


@dataclass(frozen=True)
class Model:
    """A model's folder, and what a benchmark must know about it."""

    name: str
    folder: Path
    vocabulary: int
    engine_args: dict[str, Any]
    """Engine arguments that the model needs, besides the benchmark's own."""
    max_model_len: int


def make(name: str, root: Path, *, weights: bool = False) -> Model:
    """Write the model `name` below `root`, unless it exists. Without `weights`, vLLM fills a large model."""
    folder = root / name
    if name == "tiny":
        if not (folder / "config.json").exists():
            write_model(folder, seed=0)
        return Model(name, folder, 512, {"dtype": "float32"}, 1024)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(_config(name), indent=1) + "\n")
    if not weights:
        return Model(name, folder, VOCABULARY, {"load_format": "dummy", "dtype": "bfloat16"}, 2048)
    if not (folder / "model.safetensors").exists():
        _write_weights(name, folder)
    return Model(name, folder, VOCABULARY, {"dtype": "bfloat16"}, 2048)


def make_adapters(model: Model, root: Path, count: int) -> Path:
    """Write `count` LoRA adapters of rank 8, `bench@1` and so on. Returns their folder."""
    for number in range(1, count + 1):
        if (root / f"bench@{number}").exists():
            continue
        if model.name == "tiny":
            write_adapter(root, f"bench@{number}", model=model.folder, seed=number)
        else:
            _write_adapter(model, root / f"bench@{number}", number)
    return root


def link_version(model: Model, root: Path, version: int) -> Path:
    """The model's own checkpoint under another name; loading it is as much work as loading new weights."""
    folder = root / f"v{version}"
    folder.mkdir(parents=True, exist_ok=True)
    for file in model.folder.iterdir():
        target = folder / file.name
        if file.is_file() and not target.exists():
            os.link(file, target)
    return folder


def _config(name: str) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": VOCABULARY, **_SIZES[name],
        "max_position_embeddings": 32_768, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "hidden_act": "silu",
        "use_sliding_window": False, "dtype": "bfloat16", "bos_token_id": 151_643, "eos_token_id": 151_645,
    }  # fmt: skip


def _write_weights(name: str, folder: Path) -> None:
    import torch  # noqa: PLC0415 - only where weights are made
    from safetensors.torch import save_file  # noqa: PLC0415

    where = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(where).manual_seed(0)

    def drawn(shape: tuple[int, ...]) -> torch.Tensor:
        kind = torch.bfloat16
        return (torch.randn(shape, generator=generator, device=where, dtype=kind) * 0.02).cpu()

    weights = {
        tensor: torch.ones(shape, dtype=torch.bfloat16) if tensor.endswith("norm.weight") else drawn(shape)
        for tensor, shape in _shapes(_SIZES[name])
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _linears(size: dict[str, Any]) -> dict[str, tuple[int, int]]:
    hidden, inner = size["hidden_size"], size["intermediate_size"]
    keys = hidden // size["num_attention_heads"] * size["num_key_value_heads"]
    return {
        "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (keys, hidden), "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, hidden), "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }  # fmt: skip


def _shapes(size: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden = size["hidden_size"]
    yield "model.embed_tokens.weight", (VOCABULARY, hidden)
    for layer in range(size["num_hidden_layers"]):
        stem = f"model.layers.{layer}"
        for name, shape in _linears(size).items():
            yield f"{stem}.{name}.weight", shape
            if name.endswith(("q_proj", "k_proj", "v_proj")):
                yield f"{stem}.{name}.bias", shape[:1]
        yield f"{stem}.input_layernorm.weight", (hidden,)
        yield f"{stem}.post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    if not size["tie_word_embeddings"]:
        yield "lm_head.weight", (VOCABULARY, hidden)


def _write_adapter(model: Model, folder: Path, seed: int, rank: int = 8) -> None:
    import torch  # noqa: PLC0415 - only where weights are made
    from safetensors.torch import save_file  # noqa: PLC0415

    size, generator = _SIZES[model.name], torch.Generator().manual_seed(seed)
    weights = {}
    for layer in range(size["num_hidden_layers"]):
        for name, (out, width) in _linears(size).items():
            stem = f"base_model.model.model.layers.{layer}.{name}"
            for part, shape in (("lora_A", (rank, width)), ("lora_B", (out, rank))):
                drawn = torch.randn(shape, generator=generator) * 0.02
                weights[f"{stem}.{part}.weight"] = drawn.to(torch.bfloat16)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    targets = sorted({name.rsplit(".", 1)[1] for name in _linears(size)})
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 16, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps({**settings, "bias": "none"}) + "\n")


def main() -> None:
    """Write a model, so that a benchmark need not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.support.models", description=main.__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("root", type=Path)
    parser.add_argument("--weights", action="store_true", help="write them, rather than let vLLM fill them in")
    arguments = parser.parse_args()
    make(arguments.name, arguments.root, weights=arguments.weights)


if __name__ == "__main__":
    main()
