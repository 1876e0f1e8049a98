"""Refuse a completion with a token that its config forbids: it was sampled only because nothing else was left.

If every logit is masked, vLLM still picks an id and says nothing. Pure; looks only if the config forbids ids at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rollstream.schemas import ErrorCode

from ..errors import DataError
from ..requests import GenerateRequest


def check_allowed(tokens: NDArray[np.int32], request: GenerateRequest, bad_words: Sequence[Sequence[int]]) -> None:
    """Raises `DataError` (`engine_refused`) if `request` forbids one of `tokens`; `bad_words` as vLLM tokenises them.

    If all ids were masked, any sampled id is a forbidden one, so no such case is missed.
    """
    config = request.config
    if config.allowed_token_ids is not None:
        _refuse(~np.isin(tokens, config.allowed_token_ids), tokens, "allowed_token_ids")
    if config.min_new_tokens and request.stop_token_ids:
        _refuse(np.isin(tokens[: config.min_new_tokens], request.stop_token_ids), tokens, "min_new_tokens")
    for word in bad_words:
        _refuse(_ends_of(word, tokens), tokens, "bad_words")


def _ends_of(word: Sequence[int], tokens: NDArray[np.int32]) -> NDArray[np.bool_]:
    """For each position, whether `word` ends there."""
    found = np.zeros(len(tokens), np.bool_)
    if len(word) <= len(tokens):
        windows = np.lib.stride_tricks.sliding_window_view(tokens, len(word))
        found[len(word) - 1 :] = (windows == np.asarray(word)).all(axis=1)
    return found


def _refuse(forbidden: NDArray[np.bool_], tokens: NDArray[np.int32], field: str) -> None:
    if not forbidden.any():
        return
    where = int(np.flatnonzero(forbidden)[0])
    problem = (
        f"nothing was left to sample at token {where}: the engine gave id {tokens[where]}, which {field} forbids. "
        "Together with the other options it forbids every id there: allow more"
    )
    raise DataError(ErrorCode.ENGINE_REFUSED, field, problem)
