"""Makes the models, tokenizers and adapters of the table, with transformers and peft, as a trainer would save them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, logging

from benchmarks.engine.families import SHAPE
from tests.families.shapes import BOS, EOS, FAMILIES, GPT2, PAD, SECOND_EOS, SPOKEN_EOS, VOCABULARY

logging.set_verbosity_error()
logging.disable_progress_bar()

RANK = 8
_SPREAD, _SMALL_SPREAD = 0.1, 0.05
_TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
_SPECIAL = {PAD: "<pad>", BOS: "<bos>", EOS: "<eos>", SPOKEN_EOS: "<end>", 4: "<user>", 5: "<assistant>"}
_FIRST_BYTE = 8
_LEFT_OUT = {"gate", "router", "shared_expert_gate", "lm_head", "embed_out"}
"""Routers and output layers, on which nobody trains an adapter."""
_STATE_SPACE: dict[str, set[str]] = {"mamba": {"out_proj"}, "falcon_h1": {"out_proj"}}
"""Layers that peft refuses for a model type."""


def make_model(family: str, seed: int) -> Any:
    """A transformers model in float32, whose weights are exact in bfloat16, so that each engine gets the same ones.

    Norms, biases and attention sinks are random too: left at 1 and 0, it would not show where they are forgotten.
    """
    kind, fields = FAMILIES[family]
    torch.manual_seed(seed)
    shape = {**GPT2, "vocab_size": VOCABULARY, "bos_token_id": BOS, "eos_token_id": EOS} if kind == "gpt2" else SHAPE
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**shape, **fields})).float().eval()
    with torch.no_grad():
        for value in model.parameters():
            if value.dim() > 1:
                value.normal_(0, _SPREAD)
            else:
                value.add_(torch.randn_like(value), alpha=_SMALL_SPREAD)
            value.copy_(value.bfloat16())
    model.set_attn_implementation("eager")  # the default leaves out Gemma 2's soft cap of attention: 7e-4 nats
    model.generation_config.eos_token_id = [EOS, SECOND_EOS]
    model.generation_config.pad_token_id = PAD
    return model


def save_model(model: Any, folder: Path) -> Path:
    """Write the checkpoint and a small tokenizer, whose EOS is another than the model's."""
    model.save_pretrained(folder)
    _save_tokenizer(folder)
    return folder


def make_adapter(model: Any, folder: Path) -> Any:
    """The model with an adapter of peft's own on each kind of linear layer. It is written to `folder`."""
    kinds = {name.rpartition(".")[2] for name, layer in model.named_modules() if _is_linear(layer)}
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=RANK,
        lora_alpha=2 * RANK,
        target_modules=sorted(kinds - _LEFT_OUT - _STATE_SPACE.get(model.config.model_type, set())),
        fan_in_fan_out=model.config.model_type == "gpt2",
    )
    adapted: Any = get_peft_model(model, config)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora_" in name:
                value.copy_(torch.randn_like(value).mul(_SPREAD).bfloat16())
    adapted.eval().save_pretrained(folder)
    return adapted


def _is_linear(layer: Any) -> bool:
    return type(layer).__name__ in ("Linear", "Conv1D")


def _save_tokenizer(folder: Path) -> None:
    """A byte-level one without merges, which stays the same where transformers has a class for the family."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = {**_SPECIAL, **dict(enumerate(alphabet, start=_FIRST_BYTE))}
    vocabulary = {names.get(token, f"<unused-{token}>"): token for token in range(VOCABULARY)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(_SPECIAL.values()))
    tokenizer.save(str(folder / "tokenizer.json"))
    ends = {"pad_token": _SPECIAL[PAD], "bos_token": _SPECIAL[BOS], "eos_token": _SPECIAL[SPOKEN_EOS]}
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": _TEMPLATE, **ends}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
