"""Read one entry of a result stream of scores: scores that fit their row, or an error that keeps the bytes."""

from __future__ import annotations

from functools import partial
from typing import TypeAlias

import numpy as np

from rollstream.schemas import GroupError, GroupScores, ScoreDescription, Sealed

from ..batches.read_answers import Fields, read_fitting
from ..rollouts.nonsense import MOST_LOG_PROB, nonsense

ScoreAnswer: TypeAlias = GroupScores | GroupError
"""A row's answer: its scores, or why there are none."""

_ANSWERS: tuple[type[ScoreAnswer | Sealed], ...] = (GroupScores, GroupError, Sealed)


def read_scores(batch: ScoreDescription, entry: bytes, fields: Fields) -> ScoreAnswer | Sealed:
    """Raises `UnreadableResultError` unless the entry is an answer to a row of this very batch."""
    return read_fitting(batch, entry, fields, _ANSWERS, partial(_unfit, batch))


def _unfit(batch: ScoreDescription, answer: ScoreAnswer | Sealed) -> str | None:
    if not isinstance(answer, GroupScores):
        return None
    if answer.adapter != batch.adapter:
        return f"scored with adapter {answer.adapter!r}, asked for: {batch.adapter!r}"
    return _unfit_length(batch, answer) or _unfit_log_probs(answer) or _unfit_candidates(batch, answer)


def _unfit_length(batch: ScoreDescription, scores: GroupScores) -> str | None:
    if batch.columns is not None:
        wanted = int(batch.columns.numpy()[scores.group])
        return None if len(scores) == wanted else f"{len(scores)} log-probs, {wanted} tokens of the row are scored"
    room = batch.width - int(batch.offsets.numpy()[scores.group])
    return None if len(scores) <= room else f"{len(scores)} log-probs, the row has {room} columns"


def _unfit_log_probs(scores: GroupScores) -> str | None:
    most = float(scores.logprobs.numpy().max(initial=-np.inf))
    return f"a log-prob is {most:g}, which is above 0" if most > MOST_LOG_PROB else None


def _unfit_candidates(batch: ScoreDescription, scores: GroupScores) -> str | None:
    k = 0 if scores.top_token_ids is None else scores.top_token_ids.shape[1]
    if k != batch.top_logprobs:
        return f"{k} candidates for each token, top_logprobs is {batch.top_logprobs}"
    if scores.top_token_ids is None or scores.top_logprobs is None:
        return None
    return nonsense(scores.top_token_ids.numpy(), scores.top_logprobs.numpy())
