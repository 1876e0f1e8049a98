"""A probe from a transformers model: what the trainer's own weights say of a few rows of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rollstream.schemas import Probe, Tolerance
from rollstream.schemas.plain_values import plain
from rollstream.schemas.wire.proofs.probe import MAX_TOKENS, TOLERANCES

from .errors import ProbeError
from .probe_of import probe_of
from .rows import built_in_rows, given_rows

if TYPE_CHECKING:
    import torch

_MAX_LOGITS = 2**26
"""Most logits of one forward: 256 MiB in float32."""


def make_probe(
    model: Any,
    tokenizer_or_ids: Any,
    attention_mask: Any = None,
    *,
    tolerance: Tolerance | None = None,
    max_tokens: int = 512,
    row_tokens: int = 64,
) -> Probe:
    """The probe of a transformers model with the weights that it has now, for `publish_policy(probe=...)`.

    `tokenizer_or_ids`: a tokenizer or processor, for built-in texts and random ids, `max_tokens` in rows of at most
    `row_tokens`; a worker scores rows shorter than its `--max-model-len`. Or rows of ids of your own, such as prompts
    of your task: lists, or a tensor with its `attention_mask`.

    Runs the model on its device in its own dtype, in eval mode without gradients, and leaves it as it was; dropout and
    random numbers of the training are not touched. A PEFT model is probed with its active adapter. Wrappers of DDP,
    accelerate and torch.compile are looked through. `tolerance`: how far workers may be off; None: for a model in
    float32 as the worker's dtype asks, for one in 16 bits as its own dtype does.

    Raises `ProbeError` for weights that are not all here (FSDP, DeepSpeed ZeRO-3, meta tensors), for log-probs that
    are NaN, and for rows that are no ids of the model.
    """
    inner = _unwrapped(model)
    dtype = _check_whole(inner)
    vocab_size = _vocab_size(inner)
    most, longest = _count("max_tokens", max_tokens), min(_count("row_tokens", row_tokens), _longest(inner))
    if callable(tokenizer_or_ids):
        rows = built_in_rows(tokenizer_or_ids, vocab_size, most, longest)
    else:
        rows = given_rows(tokenizer_or_ids, attention_mask)
    if not rows or min(map(len, rows)) < 2 or sum(map(len, rows)) > MAX_TOKENS:
        raise ProbeError(f"give rows of two or more ids, at most {MAX_TOKENS} of them together")
    probe_of(rows, [[0.0] * (len(row) - 1) for row in rows], vocab_size=vocab_size)  # before an id kills a device
    return probe_of(
        rows,
        _log_probs(inner, rows, vocab_size),
        vocab_size=vocab_size,
        tolerance=TOLERANCES.get(dtype) if tolerance is None and dtype != "float32" else tolerance,
    )


def _unwrapped(model: Any) -> Any:
    """The model itself, out of wrappers that only pass calls on."""
    while type(model).__name__ in ("DistributedDataParallel", "DataParallel", "OptimizedModule"):
        model = model._orig_mod if hasattr(model, "_orig_mod") else model.module
    if not (hasattr(model, "named_parameters") and hasattr(model, "config")):
        raise ProbeError(
            f"make_probe runs a transformers model, not some {type(model).__name__}: see probe_of for others"
        )
    return model


def _check_whole(model: Any) -> str:
    """The dtype in which the model computes. Raises `ProbeError` if not all weights are in this process."""
    sharded = [name for name, part in model.named_modules() if type(part).__name__ == "FullyShardedDataParallel"]
    if sharded:
        raise ProbeError(f"{sharded[0] or 'the model'} is sharded by FSDP: {_GATHER}")
    dtype = ""
    for name, value in model.named_parameters():
        if type(value).__name__ == "DTensor" or hasattr(value, "ds_id"):
            raise ProbeError(f"{name} is a shard (FSDP or DeepSpeed): {_GATHER}")
        if value.is_meta:
            raise ProbeError(f"{name} is on the meta device and has no values: load the weights first")
        if value.is_floating_point() and value.dim() > 1:
            dtype = dtype or str(value.dtype).removeprefix("torch.")
    return dtype


_GATHER = "gather the weights in one process, or compute log-probs as your trainer does and give them to probe_of"


def _vocab_size(model: Any) -> int:
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    size = getattr(config, "vocab_size", None)
    if type(size) is not int:
        raise ProbeError(f"the config of {type(model).__name__} names no vocab_size")
    return size


def _longest(model: Any) -> int:
    """Most ids of a row that the model has positions for, with one left for a worker's own token."""
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    places = getattr(config, "max_position_embeddings", None)
    return places - 1 if type(places) is int and places > 2 else MAX_TOKENS


def _count(name: str, value: object) -> int:
    given = plain(value)
    if type(given) is not int or not 2 <= given <= MAX_TOKENS:
        raise ProbeError(f"{name}={value!r}: give an integer from 2 to {MAX_TOKENS}")
    return given


def _log_probs(model: Any, rows: Sequence[list[int]], vocab_size: int) -> list[torch.Tensor]:
    """One float32 tensor a row, in order. Rows of one length share a forward, so that nothing is padded."""
    found: dict[int, torch.Tensor] = {}
    with _evaluating(model):
        for length, numbers in groupby(sorted(range(len(rows)), key=lambda n: len(rows[n])), lambda n: len(rows[n])):
            same = list(numbers)
            step = max(1, _MAX_LOGITS // (length * vocab_size))
            for first in range(0, len(same), step):
                part = same[first : first + step]
                found.update(zip(part, _forward(model, [rows[n] for n in part]), strict=True))
    return [found[number] for number in range(len(rows))]


def _forward(model: Any, rows: list[list[int]]) -> torch.Tensor:
    import torch  # noqa: PLC0415 - the producer starts without it

    device = next(model.parameters()).device
    ids = torch.tensor(rows, dtype=torch.long, device=getattr(model, "device", device))
    # accelerate replaces the forward of a prepared model by one in mixed precision, and keeps the model's own here.
    forward = vars(model).get("_original_forward", model)
    with torch.no_grad():
        logits = forward(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
        log_probs = torch.log_softmax(logits[:, :-1].float(), dim=-1)
        return log_probs.gather(-1, ids[:, 1:, None].to(log_probs.device))[..., 0].cpu()


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """The model in eval mode; afterwards each of its modules in the mode that it had."""
    training = [part for part in model.modules() if part.training]
    model.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
