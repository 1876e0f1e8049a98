"""Tiny models that take images, of random weights, and what transformers computes with them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from rollstream.worker.requests import Expanded, Picture

SPECIAL = {
    "Qwen2-VL": ["<|endoftext|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"],
    "Gemma 3": [
        "<pad>", "<eos>", "<bos>", "<image_soft_token>", "<start_of_image>", "<end_of_image>", "\n", "\n\n", "\n\n\n",
        "\n\n\n\n",
    ],
}  # fmt: skip
PLACEHOLDER = {"Qwen2-VL": [1, 3, 2], "Gemma 3": [4]}
"""What stands for an image in a prompt."""
TEXT = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 2048, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip
VISION = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 128}
_SPREAD = 0.12


def write_vision_model(folder: Path, family: str = "Qwen2-VL", seed: int = 0, vision_seed: int | None = None) -> Path:
    """A checkpoint with its tokenizer and its processor. Another `vision_seed` changes the vision tower alone."""
    pytest.importorskip("torchvision", reason="vLLM's models that take images need torchvision: make setup keeps it")
    folder.mkdir(parents=True)
    model, processor = _MADE[family]()
    tower = (torch.Generator().manual_seed(seed if vision_seed is None else vision_seed), "vision", "visual")
    rest = torch.Generator().manual_seed(1000 + seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            generator = tower[0] if tower[1] in name or tower[2] in name else rest
            if value.dim() > 1:
                value.copy_(torch.randn(value.shape, generator=generator) * _SPREAD)
            else:
                value.add_(torch.randn(value.shape, generator=generator) * 0.05)
            value.copy_(value.bfloat16())
    model.float().eval().save_pretrained(folder)
    if family == "Gemma 3":
        _name_as_published(folder / "model.safetensors")
    for part in processor:
        part.save_pretrained(folder)
    _write_tokenizer(folder, family)
    return folder


class VisionReference:
    """A checkpoint in transformers, in float32, with the adapter of a folder if one is given."""

    def __init__(self, folder: Path, adapter: Path | None = None) -> None:
        from transformers import AutoImageProcessor, AutoModelForImageTextToText

        self.model: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
        self.model.set_attn_implementation("eager")
        self.processor: Any = AutoImageProcessor.from_pretrained(folder)
        if adapter is not None:
            from peft import PeftModel

            self.model = PeftModel.from_pretrained(self.model, adapter).eval()

    def logprobs(
        self, expanded: Expanded, pictures: Sequence[Picture], tokens: Sequence[int], without: int | None = None
    ) -> NDArray[np.float64]:
        """Those of `tokens` after the expanded prompt, as if the id `without` could not be sampled."""
        row = torch.tensor([[*expanded.ids, *tokens]])
        given = [picture.pixels for picture in pictures]
        inputs = self.processor(images=given, return_tensors="pt") if given else {}
        kinds = torch.zeros_like(row)
        for span in expanded.spans:
            inside = row[0, span.offset : span.offset + span.length]
            kinds[0, span.offset : span.offset + span.length] = (inside == 3).long()
        wanted = {name: inputs[name] for name in ("pixel_values", "image_grid_thw") if name in inputs}
        kinds_name = "token_type_ids" if "image_grid_thw" not in wanted else "mm_token_type_ids"
        with torch.no_grad():
            logits = self.model(input_ids=row, **wanted, **({kinds_name: kinds} if given else {})).logits[0].float()
        if without is not None:
            logits[:, without] = -torch.inf
        first = len(expanded.ids)
        rows = logits[first - 1 : -1].log_softmax(-1)
        found: NDArray[np.float64] = rows.gather(-1, row[0, first:, None])[:, 0].double().numpy()
        return found

    @contextlib.contextmanager
    def text_of(self, token: int, used: Set[int]) -> Iterator[int]:
        """An id that none of `used` is, and that inside this context the model reads as `token`, but never as an image:
        transformers takes the id of a placeholder for one wherever it stands.
        """
        alias = next(one for one in range(300, 500) if one not in used)
        weight = self.model.get_input_embeddings().weight
        before = weight[alias].detach().clone()
        with torch.no_grad():
            weight[alias] = weight[token]
        try:
            yield alias
        finally:
            with torch.no_grad():
                weight[alias] = before


LANGUAGE = r".*language_model.*\.(q_proj|v_proj|down_proj)"


def write_vision_adapter(model: Path, folder: Path, targets: str = LANGUAGE) -> Path:
    """peft's own; by default on layers of the language model."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    base = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=targets)
    adapted: Any = get_peft_model(base, config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in adapted.named_parameters():
            if "lora_" in name:
                value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    adapted.save_pretrained(folder)
    return folder


def picture(seed: int, height: int = 84, width: int = 112) -> Picture:
    """Noise; another seed is another image."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Picture(sha256=f"{seed:064x}", pixels=pixels)


def _qwen() -> tuple[Any, tuple[Any, ...]]:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

    rope = {"type": "mrope", "rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10000.0}
    vision = {
        "depth": 2, "embed_dim": 64, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3,
    }  # fmt: skip
    config = Qwen2VLConfig(
        text_config={**TEXT, "rope_parameters": rope, "rope_scaling": rope}, vision_config=vision, image_token_id=3,
        video_token_id=4, vision_start_token_id=1, vision_end_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip
    size = {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16}
    processor = Qwen2VLImageProcessor(patch_size=14, merge_size=2, temporal_patch_size=2, size=size)
    return Qwen2VLForConditionalGeneration(config), (processor,)


def _gemma() -> tuple[Any, tuple[Any, ...]]:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Gemma3TextConfig
    from transformers.models.gemma3.image_processing_gemma3 import Gemma3ImageProcessor

    text = {**TEXT, "head_dim": 32, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 64}
    config = Gemma3Config(
        text_config=Gemma3TextConfig(**text), vision_config={**VISION, "image_size": 56, "patch_size": 14},
        mm_tokens_per_image=4, image_token_index=3, boi_token_index=4, eoi_token_index=5,
    )  # fmt: skip
    return Gemma3ForConditionalGeneration(config), (Gemma3ImageProcessor(size={"height": 56, "width": 56}),)


_MADE: dict[str, Callable[[], tuple[Any, tuple[Any, ...]]]] = {"Qwen2-VL": _qwen, "Gemma 3": _gemma}
_PROCESSORS: dict[str, dict[str, Any]] = {
    "Qwen2-VL": {"processor_class": "Qwen2VLProcessor"},
    "Gemma 3": {"processor_class": "Gemma3Processor", "image_seq_length": 4},
}
_TOLD: dict[str, dict[str, Any]] = {
    "Qwen2-VL": {},
    "Gemma 3": {
        "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>",
        "image_token_id": 3, "boi_token_id": 4, "eoi_token_id": 5,
    },
}  # fmt: skip


def _name_as_published(file: Path) -> None:
    """As in Google's checkpoints, which vLLM reads; transformers 5 saves the vision tower under shorter names."""
    tensors = load_file(file)
    save_file({name.replace("vision_tower.", "vision_tower.vision_model."): one for name, one in tensors.items()}, file,
              metadata={"format": "pt"})  # fmt: skip


def _write_tokenizer(folder: Path, family: str) -> None:
    special = SPECIAL[family]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate([*special, *alphabet])}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.save(str(folder / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": special[0], "pad_token": special[0]}
    (folder / "tokenizer_config.json").write_text(json.dumps({**told, **_TOLD[family]}))
    (folder / "processor_config.json").write_text(json.dumps(_PROCESSORS[family]))
