"""What a checkpoint's folder may hold, so that trainers and workers read the same weights from it.

vLLM's loader reads `*.safetensors`, and if there is an index, only the files that it names. It does not report weights
that it leaves out: a folder with files of two saves would be served with the older ones. Pure: nothing is read here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import PurePath
from re import compile as pattern
from typing import Protocol

INDEX = "model.safetensors.index.json"
"""The only name under which vLLM looks for an index."""

_SHARD = pattern(r".*-\d{5}-of-\d{5}\.safetensors")
"""Files that hold a part of the tensors. save_pretrained writes the index, which names the parts, after all of them."""
_OTHER_FORMATS = {".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".npz"}
_TRAINING_STATE = (
    "training_args", "optim", "sched", "scaler", "rng_state", "random_state", "extra_state", "sampler", "dl_state",
    "dataloader", "trainer_state", "train_state", "callback", "accelerator_state", "metric", "grad",
)  # fmt: skip
"""Words in the names of what trainers keep beside the weights (`training_args.bin`, `optimizer.pt`)."""

# What vLLM's models compute from the config, and skip where a checkpoint has it.
_ROTARY = (
    "rotary_emb.inv_freq", "rotary_pos_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached",
)  # fmt: skip
_MASKS = ("attn.bias", "attention.bias")
_MASK_VALUES = ("attn.masked_bias", "attention.masked_bias")

_WRAPPERS = {
    "_orig_mod": "torch.compile", "_fsdp_wrapped_module": "FSDP", "_checkpoint_wrapped_module": "checkpoint wrappers",
}  # fmt: skip
_ADAPTER_PARTS = {"lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector", "base_layer"}

_HEAD = "lm_head.weight"
_EMBEDDINGS = {"embed_tokens", "wte", "embed_in", "word_embeddings", "tok_embeddings", "embeddings"}


class Tensor(Protocol):
    """A tensor as a safetensors header describes it; positions are counted from the end of the header."""

    @property
    def dtype(self) -> str:
        """In the format's words: F32, BF16, U8."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""

    @property
    def start(self) -> int:
        """Where its bytes start."""

    @property
    def end(self) -> int:
        """Where they end."""


def unread_weights(names: Iterable[str], indexed: Collection[str] | None) -> str | None:
    """The first file of a folder whose weights vLLM would leave out, or read instead of the others, and what to do.

    `indexed`: the files that the folder's index names; None if it has no index.
    """
    for name in sorted(names):
        if problem := _unread(name, indexed):
            return f"{name} {problem}"
    return None


def _unread(name: str, indexed: Collection[str] | None) -> str | None:
    plain = PurePath(name.lower())
    if plain.name.endswith(".safetensors.index.json"):
        return None if name == INDEX else f"is an index that vLLM does not look at: name it {INDEX}, or remove it"
    if plain.suffix == ".safetensors":
        return _misplaced(name) or _unnamed(name, indexed)
    if plain.suffix in _OTHER_FORMATS and not any(word in plain.stem for word in _TRAINING_STATE):
        return "may hold weights, which vLLM would not read beside *.safetensors: publish a folder with one of both"
    return None


def _misplaced(name: str) -> str | None:
    if name.startswith(".") or not name.endswith(".safetensors"):
        return "is not read by vLLM, because of its name: rename or remove it"
    if name.startswith("consolidated"):
        return "would be read by vLLM in place of the other files: remove it"
    if name.startswith("adapter_model"):
        return "holds an adapter, which vLLM would not apply: publish it as an adapter, or save the merged model"
    return None


def _unnamed(name: str, indexed: Collection[str] | None) -> str | None:
    if indexed is None and _SHARD.fullmatch(name):
        return f"needs {INDEX}, which is not there: publish it once it is written"
    if indexed is not None and name not in indexed:
        return f"is not named by {INDEX}, so that vLLM would not read it: remove what is left of an earlier save"
    return None


def index_difference(mapped: Mapping[str, str], held: Mapping[str, Mapping[str, Tensor]]) -> str | None:
    """Where the index contradicts the tensors in the files; None if nowhere."""
    for tensor, name in mapped.items():
        if tensor not in held.get(name, ()) and not is_computed(tensor, ()):
            return f"tensor {tensor} is not in {name}: write the index again"
    for name, tensors in held.items():
        for tensor, header in tensors.items():
            if mapped.get(tensor) != name and not is_computed(tensor, header.shape):
                return f"tensor {tensor} of {name} is not in the index: write the index again"
    return None


def is_computed(tensor: str, shape: tuple[int, ...]) -> bool:
    """Whether it is a buffer that every loader computes from the config, even if an old checkpoint has it."""
    if tensor.endswith(_ROTARY):
        return True
    if tensor.endswith(_MASKS):
        return len(shape) == 4  # a mask is (1, 1, length, length), a layer's own bias a vector
    return tensor.endswith(_MASK_VALUES) and len(shape) <= 1


def wrapped(tensors: Collection[str]) -> str | None:
    """What is wrong with names that no model has: a wrapper's, or those of an adapter that is not merged."""
    for tensor in sorted(tensors):
        parts = tensor.split(".")
        for part in parts:
            if part in _WRAPPERS:
                return f"tensor {tensor} has a name of {_WRAPPERS[part]}: save the model that is inside"
        if _ADAPTER_PARTS.intersection(parts):
            return f"tensor {tensor} belongs to an adapter: merge it (merge_and_unload), or publish it as an adapter"
    if tensors and all(tensor.startswith("module.") for tensor in tensors):
        return "all tensors have names that begin with 'module.': save the model that is inside, not its wrapper"
    return None


def is_head(tensor: str) -> bool:
    """Whether it is the output layer. A model with tied embeddings has no weights of its own for it."""
    return tensor == _HEAD or tensor.endswith(f".{_HEAD}")


def is_embedding(tensor: str) -> bool:
    """Whether it is the table of input embeddings."""
    *_, layer, kind = ("", "", *tensor.split("."))
    return layer in _EMBEDDINGS and kind == "weight"
