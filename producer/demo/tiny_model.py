"""A tiny random Qwen2 and LoRA adapters for the demo and the tests: the same seed gives the same bytes everywhere.

The weights have a wide spread (0.15), so that some tokens are much more likely than others: another token, weight or
adapter then changes what the model samples. With the default initialisation all tokens are about equally likely.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch

Dtype = Literal["float32", "bfloat16"]

PAD, BOS, EOS = 0, 1, 2
SPECIAL = ("<pad>", "<bos>", "<eos>")
SPREAD = 0.15
HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS, HEAD_SIZE = 128, 256, 2, 4, 2, 32
LINEARS = {
    "self_attn.q_proj": (HEADS * HEAD_SIZE, HIDDEN),
    "self_attn.k_proj": (KV_HEADS * HEAD_SIZE, HIDDEN),
    "self_attn.v_proj": (KV_HEADS * HEAD_SIZE, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HEADS * HEAD_SIZE),
    "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
    "mlp.up_proj": (INTERMEDIATE, HIDDEN),
    "mlp.down_proj": (HIDDEN, INTERMEDIATE),
}
"""Shapes (out, in) of each layer's linear weights."""


def write_model(
    folder: Path,
    *,
    seed: int = 0,
    vocab_size: int = 512,
    dtype: Dtype = "float32",
    eos_token_ids: tuple[int, ...] = (EOS,),
    max_positions: int = 1024,
    tokenizer: bool = True,
    tied: bool = False,
) -> Path:
    """Write a model that vLLM and transformers load, and a byte-level tokenizer (it needs 259 ids). Returns `folder`.

    Another `seed` makes another policy version of the same model. `tied`: the embedding is the output layer too.
    """
    from safetensors.torch import save_file  # noqa: PLC0415 - the producer runs without torch until asked

    folder.mkdir(parents=True, exist_ok=True)
    eos = eos_token_ids[0] if len(eos_token_ids) == 1 else list(eos_token_ids)
    ids = {"pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": eos}
    _write_json(folder / "config.json", {**_config(vocab_size, dtype, max_positions, tied), **ids})
    _write_json(folder / "generation_config.json", ids)
    weights = dict(_weights(seed, vocab_size, dtype))
    if tied:
        del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    if tokenizer:
        _write_tokenizer(folder, vocab_size)
    return folder


def write_adapter(
    root: Path,
    name_at_version: str,
    *,
    model: Path,
    seed: int,
    rank: int = 8,
    alpha: float = 16.0,
    spread: float = SPREAD,
) -> Path:
    """Write a LoRA adapter on every linear layer of `model`, in PEFT's format. Returns `root/name@version`."""
    import torch  # noqa: PLC0415 - the producer runs without torch until asked
    from safetensors.torch import save_file  # noqa: PLC0415

    folder = root / name_at_version
    folder.mkdir(parents=True, exist_ok=True)
    dtype = getattr(torch, json.loads((model / "config.json").read_text())["dtype"])
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for layer, (name, (out, width)) in product(range(LAYERS), LINEARS.items()):
        stem = f"base_model.model.model.layers.{layer}.{name}"
        for part, shape in (("lora_A", (rank, width)), ("lora_B", (out, rank))):
            weights[f"{stem}.{part}.weight"] = (torch.randn(shape, generator=generator) * spread).to(dtype)
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "adapter_config.json", _adapter_config(rank, alpha))
    return folder


def _config(vocab_size: int, dtype: Dtype, max_positions: int, tied: bool) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": vocab_size,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "hidden_act": "silu",
        "max_position_embeddings": max_positions,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": tied,
        "use_sliding_window": False,
        "dtype": dtype,
    }


def _adapter_config(rank: int, alpha: float) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(name.rsplit(".", 1)[1] for name in LINEARS),
        "bias": "none",
        "modules_to_save": None,
        "use_dora": False,
        "use_rslora": False,
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def _weights(seed: int, vocab_size: int, dtype: Dtype) -> Iterator[tuple[str, torch.Tensor]]:
    import torch  # noqa: PLC0415 - the producer runs without torch until asked

    generator = torch.Generator().manual_seed(seed)
    kind = getattr(torch, dtype)
    for name, shape in _shapes(vocab_size):
        if name.endswith("norm.weight"):
            yield name, torch.ones(shape, dtype=kind)
        else:
            yield name, (torch.randn(shape, generator=generator) * SPREAD).to(kind)


def _shapes(vocab_size: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield "model.embed_tokens.weight", (vocab_size, HIDDEN)
    for layer in range(LAYERS):
        stem = f"model.layers.{layer}"
        for name, shape in LINEARS.items():
            yield f"{stem}.{name}.weight", shape
            if name.endswith(("q_proj", "k_proj", "v_proj")):
                yield f"{stem}.{name}.bias", shape[:1]
        yield f"{stem}.input_layernorm.weight", (HIDDEN,)
        yield f"{stem}.post_attention_layernorm.weight", (HIDDEN,)
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (vocab_size, HIDDEN)


def _write_tokenizer(folder: Path, vocab_size: int) -> None:
    """Three special tokens, the 256 bytes, then pairs of lower-case letters until `vocab_size` is full."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers  # noqa: PLC0415

    letters = "etaoinshrdlucmfwypvbgkjqxz"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    room = vocab_size - len(SPECIAL) - len(alphabet)
    if room < 0:
        raise ValueError(f"a byte-level tokenizer needs {vocab_size - room} ids, the model has {vocab_size}")
    merges = list(islice(product(letters, letters), room))
    vocab = _numbered([*SPECIAL, *alphabet, *(first + second for first, second in merges)])
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = dict(zip(("pad_token", "bos_token", "eos_token"), SPECIAL, strict=True))
    _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names})


def _numbered(tokens: Iterable[str]) -> dict[str, int]:
    return {token: number for number, token in enumerate(tokens)}


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")
