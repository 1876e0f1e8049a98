"""A probe of rows and log-probs that somebody has computed; `make_probe` computes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from rollstream.schemas import Probe, Tensor, Tolerance
from rollstream.schemas.plain_values import plain
from rollstream.schemas.wire.proofs.probe import MIN_SCORED

from .errors import ProbeError


def probe_of(
    rows: Sequence[Any], logprobs: Sequence[Any], *, vocab_size: int, tolerance: Tolerance | None = None
) -> Probe:
    """A probe of `rows` of ids and, for each row, the log-probs of all of its tokens but the first.

    Rows are lists, arrays or tensors. `logprobs` are those of the weights that are published, in float32, temperature
    1, nothing left out of the vocabulary, as a trainer of any kind computes them for its loss. A
    publish takes 16 log-probs or more. Raises `ProbeError`.
    """
    size = plain(vocab_size)
    if type(size) is not int or size < 1:
        raise ProbeError(f"vocab_size is the model's number of ids, not {vocab_size!r}")
    ids = [_array(f"row {number}", row, "iu") for number, row in enumerate(rows)]
    known = [_array(f"the log-probs of row {number}", row, "f") for number, row in enumerate(logprobs)]
    if not ids or [len(row) - 1 for row in ids] != [len(row) for row in known]:
        raise ProbeError("give 1 or more rows, and a log-prob for each token but the first of each row")
    if spoilt := [number for number, row in enumerate(known) if not np.isfinite(row).all()]:
        raise ProbeError(f"the log-probs of row {spoilt[0]} are not finite: these weights cannot be proven, nor used")
    if outside := [number for number, row in enumerate(ids) if row.min() < 0 or row.max() >= size]:
        raise ProbeError(f"row {outside[0]} has ids outside the vocabulary of {size}")
    lengths = np.array([len(row) for row in ids], np.int32)
    try:
        return Probe(
            token_ids=Tensor.of(np.concatenate(ids).astype(np.int32)),
            row_lengths=Tensor.of(lengths),
            logprobs=Tensor.of(np.concatenate(known).astype(np.float32)),
            vocab_size=size,
            tolerance=tolerance,
        )
    except ValidationError as error:
        raise ProbeError(error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")) from None


def check_enough(probe: Probe) -> None:
    """Raises `ProbeError` for one of a few tokens, which other weights may reproduce as well."""
    if not probe.is_enough:
        scored = probe.logprobs.shape[0]
        problem = f"it compares {scored} log-probs, and at least {MIN_SCORED} prove anything"
        raise ProbeError(f"{problem}: give more rows, or longer ones (the first token of a row has no log-prob)")


def _array(what: str, given: Any, kinds: str) -> NDArray[Any]:
    """One dimension of integers (`iu`) or floats (`f`)."""
    if hasattr(given, "detach"):  # a tensor, which may be on a device, and of a dtype that numpy lacks
        given = given.detach().cpu()
        given = (given.float() if given.is_floating_point() else given).numpy()
    try:
        array = np.asarray(given)
    except (TypeError, ValueError):
        array = np.empty((0, 0))
    if array.ndim != 1 or (array.size and array.dtype.kind not in kinds):
        raise ProbeError(f"{what}: give one dimension of {'integers' if 'i' in kinds else 'floats'}")
    return array
