"""Refuses rows that cannot be scored. Pure checks before the engine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas import ErrorCode
from rollstream.schemas.wire.sizes.result_size import MAX_RESULT_BYTES, score_bytes

from ..engine import EngineInfo
from ..errors import DataError
from .request_checks import check_vocabulary


def check_width(top_logprobs: int, info: EngineInfo) -> None:
    """Raises `DataError` if this engine cannot give so many of the likeliest ids."""
    most = min(info.max_logprobs, info.vocab_size)
    if top_logprobs > most:
        problem = f"top_logprobs={top_logprobs} is more than the {most} that the worker's engine gives: ask for fewer"
        raise DataError(ErrorCode.INVALID_CONFIG, "top_logprobs", problem)


def check_row(row: NDArray[np.int32], info: EngineInfo) -> None:
    """Raises `DataError` if the engine cannot score `row` (int32, (row_len,))."""
    if row.size == 0:
        problem = "the row has no token to score: its rollout failed, or its mask is all zero"
        raise DataError(ErrorCode.EMPTY_PROMPT, "input_ids", problem)
    check_vocabulary("input_ids", row, info)
    if row.size > info.max_model_len:
        problem = (
            f"the row has {row.size} tokens, more than the worker's max_model_len={info.max_model_len}: shorten it, or "
            "start the worker with a larger --max-model-len"
        )
        raise DataError(ErrorCode.TOO_LONG, "input_ids", problem)


def check_scores_fit(columns: int, top_logprobs: int) -> None:
    """Raises `DataError` if the scores of so many tokens do not fit a message, before they are made."""
    nbytes = score_bytes(columns, top_logprobs)
    if nbytes > MAX_RESULT_BYTES:
        problem = (
            f"the scores of {columns} tokens with {top_logprobs} candidates each are {nbytes} bytes, and one message "
            f"carries {MAX_RESULT_BYTES}: begin at a later token, or ask for fewer top_logprobs"
        )
        raise DataError(ErrorCode.TOO_LONG, "top_logprobs" if top_logprobs else "token_ids", problem)
