"""The keyword arguments of `publish_policy`: each declared, explained and given its default once."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict  # no postponed annotations in this module: `help` shows these types

from rollstream.schemas import Activate, Probe
from rollstream.schemas.wire.policies import When

from ..rounds.round_options import RoundOptions
from .adapter_files import AdapterSource
from .adapter_tensors import PeftConfig


class PublishOptions(TypedDict, total=False):
    """`checkpoint`: a folder as `save_pretrained` writes it. Only its name and its digest are sent: it must lie
    directly below the workers' `--checkpoint-dir`, on a shared file system, and must not change any more; use one
    folder a version. Files are read in a thread.

    `adapter`: a LoRA adapter on the workers' boot model, as for `publish_adapter`, with `lora_alpha`, `use_rslora` and
    `peft_config` as there; it is sent through the client's weight store (`weights=` of the client), as what changed, or
    through Redis if the client has none. A PEFT model as `model`, and PEFT's tensors as `state_dict`, are the same.

    `again`: an older version that workers can still reach; its weights are announced once more. Versions only grow, so
    this is the way back to it. It keeps its probe unless another is given. What went through the weight store must be
    there still: a client with `weights=` checks that and raises `PolicyVersionError`; otherwise workers refuse it.

    `state_dict` or `model`: what `model.state_dict()` returns, or the model itself, of any torch trainer: sent through
    the client's weight store (`weights=` of the client), without a folder in between. All processes of a sharded model
    gather it first. It is copied before anything is awaited, so that training can go on meanwhile. `dtype`
    ("bfloat16") casts float tensors to the dtype of the workers' model; workers get exactly what was cast. `store=True`
    sends a `checkpoint`'s tensors the same way; `store=False` sends an `adapter` through Redis in any case.

    `transport`: "nccl" sends a model's or state dict's tensors from GPU to GPU to all workers that take part in rounds
    (`--weight-transfer`), and they stand still for as long as that takes; "gloo" does so between CPUs, and "ipc"
    through memory that trainer and workers share on one machine, of a GPU where the weights are there. The weight store
    gets them first, for workers that start later or miss the round. The weights must not change before the call
    returns. `RoundOptions` has the time limits.

    `base`: "auto" sends what changed since the version that this client published last, or all weights where that is
    better or nothing is known; None: all weights; a number: what changed since that version, or an error: it must be
    the one that this client sent last through the weight store, never the boot model or a folder.

    `probe`: rows of text with the trainer's own log-probs, as `make_probe(model, tokenizer)` makes it from the weights
    that are published. Each worker must reproduce it before anything that it samples under this version leaves it; one
    that cannot serves on with the version before. None: weights are believed once their files are those announced.

    `activate`: when workers serve it. "at_once": each as soon as it can. "by_hand": after `activate(version)`; until
    then they prepare it and serve on with the version before. `Activate(when="when_prepared", share=0.9,
    timeout_s=60)`: once nine in ten live workers have prepared it, and after 60 seconds in any case.

    `progress` shows a bar on stderr.
    """

    checkpoint: Path | str | None
    adapter: "AdapterSource | None"
    state_dict: Mapping[str, Any] | None
    model: Any
    store: bool | None
    transport: Literal["store", "nccl", "gloo", "ipc"] | RoundOptions | None
    base: int | Literal["auto"] | None
    dtype: Any
    lora_alpha: float | None
    use_rslora: bool | None
    peft_config: "PeftConfig | None"
    again: int | None
    probe: Probe | None
    activate: When | Activate
    progress: bool


PUBLISH_DEFAULTS: PublishOptions = {
    "checkpoint": None,
    "adapter": None,
    "state_dict": None,
    "model": None,
    "store": None,
    "transport": None,
    "base": "auto",
    "dtype": None,
    "lora_alpha": None,
    "use_rslora": None,
    "peft_config": None,
    "again": None,
    "probe": None,
    "activate": "at_once",
    "progress": False,
}
