"""A `RolloutBatch` as a file: its tensors, and all else as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from rollstream.schemas import GroupError
from rollstream.schemas.generation.generation_config import MAX_CANDIDATES, MAX_SUPPORT_TIES, LogprobsFlavour
from rollstream.schemas.wire.fields import Count, FinishReason, Index, Shown, VersionSpan
from rollstream.schemas.wire.images import Images, ImageSpans, check_images, check_spans
from rollstream.schemas.wire.routing import RowRouting

from .errors import TensorFileError
from .rollout_fields import ROW_TUPLES, RolloutFields
from .saved_rest import Rest, read_rest, saved_errors, unfit_bounds
from .support import SamplingSupport
from .tensor_file import Form, read_tensors, write_tensors

if TYPE_CHECKING:
    import torch

KIND = "RolloutBatch"
FORMS = {
    **{name: Form("int64", "RS") for name in ("sequences", "attention_mask", "position_ids", "prompt_mask")},
    "response_mask": Form("int64", "RS"),
    **{name: Form("int64", "R") for name in ("prompt_lengths", "response_lengths", "group_index")},
    "old_log_probs": Form("float32", "RL", needed=False),
    "scores": Form("float32", "R", needed=False),
    "top_token_ids": Form("int64", "RLK", needed=False),
    "top_log_probs": Form("float32", "RLK", needed=False),
    "label_log_probs": Form("float32", "RLM", needed=False),
    "forced_mask": Form("int64", "RL", needed=False),
    "sample_index": Form("int64", "R", needed=False),
    "resumed_at": Form("int64", "R", needed=False),
    "support_lengths": Form("int64", "RL", needed=False),
    "support_ids": Form("int32", "T", needed=False),
}


class _Rest(Rest):
    batch_id: Shown
    prompt_len: Index
    response_len: Index
    logprobs_flavour: LogprobsFlavour | None
    finish_reasons: tuple[FinishReason, ...]
    stop_reasons: tuple[int | str | None, ...]
    texts: tuple[str | None, ...]
    version_spans: tuple[tuple[VersionSpan, ...], ...]
    spans_exact: bool
    num_return_sequences: Count
    pad_token_id: Annotated[int, Field(ge=-(2**63), lt=2**63)]
    label_token_ids: tuple[Index, ...]
    cut_lengths: tuple[tuple[Index, tuple[Index, ...]], ...] = ()
    """By the number of the prompt."""
    images: tuple[Images, ...] = ()
    image_spans: tuple[ImageSpans, ...] = ()
    routing: tuple[RowRouting | None, ...] = ()


def save_rollouts(rollouts: RolloutFields, path: Path) -> None:
    """Raises `OSError`."""
    tensors = {name: getattr(rollouts, name, None) for name in FORMS}
    if rollouts.support is not None:
        tensors |= {"support_lengths": rollouts.support.lengths, "support_ids": rollouts.support.ids}
    rest = {name: getattr(rollouts, name) for name in _Rest.model_fields if name not in ("errors", "cut_lengths")}
    cut = tuple((prompt, tuple(lengths)) for prompt, lengths in rollouts.cut_lengths.items())
    text = _Rest(**rest, errors=saved_errors(rollouts.errors), cut_lengths=cut).model_dump_json()
    write_tensors(path, KIND, {name: tensor for name, tensor in tensors.items() if tensor is not None}, text)


def read_rollouts(path: Path) -> dict[str, Any]:
    """The fields of a `RolloutBatch` that fit each other. Raises `OSError`, `TensorFileError`."""
    tensors, text, sizes = read_tensors(path, KIND, FORMS)
    rest, errors = read_rest(path, text, _Rest)
    problem = (
        _unfit_numbers(rest, sizes, errors)
        or _unfit_rows(rest, tensors)
        or _unfit_tokens(rest, tensors)
        or _unfit_few(tensors, rest)
        or _unfit_images(rest, tensors)
    )
    if problem is not None:
        raise TensorFileError(path, problem)
    lengths, ids = tensors.pop("support_lengths", None), tensors.pop("support_ids", None)
    support = None if lengths is None or ids is None else SamplingSupport(ids=ids, lengths=lengths)
    absent = dict.fromkeys(name for name in ("old_log_probs", "scores") if name not in tensors)
    given = {name: getattr(rest, name) for name in _Rest.model_fields}
    return {
        **given, **absent, **tensors, "errors": errors, "support": support, "cut_lengths": dict(rest.cut_lengths)
    }  # fmt: skip


def _unfit_numbers(rest: _Rest, sizes: dict[str, int], errors: dict[int, GroupError]) -> str | None:
    rows, wide = sizes["R"], rest.prompt_len + rest.response_len
    if sizes["S"] != wide or sizes.get("L", rest.response_len) != rest.response_len:
        return f"prompts of {rest.prompt_len} and responses of {rest.response_len} columns are not in its tensors"
    for name in ROW_TUPLES:
        if len(getattr(rest, name)) != rows:
            return f"{name}: {len(getattr(rest, name))} of {rows} rows"
    if len(rest.routing) not in (0, rows):
        return f"routing: {len(rest.routing)} of {rows} rows"
    if sizes.get("M", len(rest.label_token_ids)) != len(rest.label_token_ids):
        return f"label_log_probs: of {sizes['M']} ids, and label_token_ids has {len(rest.label_token_ids)}"
    for name, prompts in (("errors", list(errors)), ("cut_lengths", [prompt for prompt, _ in rest.cut_lengths])):
        if max(prompts, default=-1) >= rows:
            return f"{name}: of prompt {max(prompts)} among {rows} rows"
    return None


def _unfit_rows(rest: _Rest, tensors: dict[str, torch.Tensor]) -> str | None:
    wide = rest.prompt_len + rest.response_len
    bounds = {
        "attention_mask": 1, "prompt_mask": 1, "response_mask": 1, "forced_mask": 1,
        "position_ids": max(wide - 1, 0), "prompt_lengths": rest.prompt_len, "response_lengths": rest.response_len,
        "group_index": 2**31 - 1, "top_token_ids": 2**31 - 1, "support_ids": 2**31 - 1,
        "support_lengths": MAX_CANDIDATES + MAX_SUPPORT_TIES, "resumed_at": rest.response_len,
    }  # fmt: skip
    least = {name: (0, most) for name, most in bounds.items()}
    if problem := unfit_bounds(tensors, {**least, "sample_index": (-1, 2**31 - 1)}):
        return problem
    numbers = tensors["group_index"]
    steps = numbers.diff()
    if numbers.numel() and (int(numbers[0]) != 0 or ((steps != 0) & (steps != 1)).any()):
        return "group_index: prompts are numbered from 0, each one after the one before"
    return None


def _unfit_tokens(rest: _Rest, tensors: dict[str, torch.Tensor]) -> str | None:
    """What must hold of single tokens. A trainer may change masks, so they need not follow from lengths."""
    import torch  # noqa: PLC0415 - a producer that only submits needs none

    column = torch.arange(-rest.prompt_len, rest.response_len)
    prompts, responses = tensors["prompt_lengths"][:, None], tensors["response_lengths"][:, None]
    ids = tensors["sequences"][(column >= -prompts) & (column < responses)]
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < 2**31:
        return f"sequences: from {int(ids.min())} to {int(ids.max())}, which must lie within 0 and {2**31 - 1}"
    if (tensors["prompt_mask"] & tensors["response_mask"]).any():
        return "prompt_mask and response_mask: both are 1 for one token"
    if "old_log_probs" in tensors:
        sampled = tensors["response_mask"][:, rest.prompt_len :] == 1
        if not tensors["old_log_probs"][sampled].isfinite().all():
            return "old_log_probs: not finite where response_mask is 1"
    return None


def _unfit_images(rest: _Rest, tensors: dict[str, torch.Tensor]) -> str | None:
    lengths = tensors["prompt_lengths"].tolist()
    try:
        check_images("images", rest.images, len(lengths))
        check_images("image_spans", rest.image_spans, len(rest.images))
        if len(rest.image_spans) != len(rest.images):
            return "images and image_spans come together"
        for images, spans, length in zip(rest.images, rest.image_spans, lengths, strict=False):
            check_spans(images, spans, length)
    except ValueError as error:
        return str(error)
    return None


def _unfit_few(tensors: dict[str, torch.Tensor], rest: _Rest) -> str | None:
    for one, other in (("top_token_ids", "top_log_probs"), ("support_lengths", "support_ids")):
        if (one in tensors) != (other in tensors):
            return f"{one} and {other} come together"
    if ("old_log_probs" in tensors) != (rest.logprobs_flavour is not None):
        return "old_log_probs and logprobs_flavour come together"
    if "support_ids" in tensors and int(tensors["support_lengths"].sum()) != len(tensors["support_ids"]):
        return "support_lengths do not add up to support_ids"
    return None
