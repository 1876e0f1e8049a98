"""Ask vLLM for the log-probs of a prompt, and read what it gives. Pure: imports no vLLM, and reads only attributes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas import ErrorCode

from ...errors import DataError
from ...requests import ScoreRequest, Scores
from .translation import check_sampled

_NOT_FINITE = "a log-prob of the row is not finite: the weights are bad, or leave the range of the worker's --dtype"


def score_fields(request: ScoreRequest) -> dict[str, Any]:
    """The fields for vLLM's `SamplingParams`. It samples a token in any case, which nobody looks at."""
    return {
        "temperature": 0.0,
        "max_tokens": 1,
        "prompt_logprobs": request.top_logprobs,
        "ignore_eos": True,
        "detokenize": False,
    }


def scores(output: Any, request: ScoreRequest, version: int) -> Scores:
    """The scores in a final `RequestOutput`: each row but the first, which is empty, has the target first.

    Its log-probs are `Rows`, or vLLM's `FlatLogprobs`.
    Raises what `check_sampled` raises, and `DataError` for numbers that are missing, of other tokens or not finite.
    """
    check_sampled(output)
    ids, logprobs = _columns(output.prompt_logprobs, len(request.token_ids) - 1, 1 + request.top_logprobs)
    if (ids[:, 0] != np.array(request.token_ids[1:], np.int32)).any():
        raise _refused("vLLM gave log-probs of other tokens than those of the row")
    ids, logprobs = ids[request.first - 1 :], logprobs[request.first - 1 :]
    if not np.isfinite(logprobs).all():
        raise _refused(_NOT_FINITE)
    return Scores(
        logprobs=logprobs[:, 0].copy(),
        top_token_ids=ids[:, 1:].copy(),
        top_logprobs=logprobs[:, 1:].copy(),
        version=version,
    )


def _columns(flat: Any, rows: int, columns: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    ids = np.asarray(flat.token_ids, np.int32)
    if ids.size != rows * columns:
        raise _refused(f"vLLM gave {ids.size} log-probs for {rows} tokens with {columns} columns")
    return ids.reshape(rows, columns), np.asarray(flat.logprobs, np.float32).reshape(rows, columns)


def _refused(problem: str) -> DataError:
    return DataError(ErrorCode.ENGINE_REFUSED, "input_ids", problem)
