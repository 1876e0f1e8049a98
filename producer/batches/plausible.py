"""A batch's description in Redis may say anything, so the widths that it asks for are compared with the answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rollstream.schemas import Batch, GroupError, GroupResult, GroupScores, ScoreDescription

from ..errors import UnreadableResultError
from .read_answers import Answer

_ALWAYS = 2**24
"""So many cells of prompts, or of responses, are always allowed: tensors of less than a gigabyte in all."""
_CELLS_PER_TOKEN = 1024


def check_widths(batch: Batch, answers: Mapping[int, Answer], *, pad_to_max_new_tokens: bool) -> None:
    """Raises `UnreadableResultError` if nearly all of the tensors would be padding that only the description asks for.

    For attached handles; the handle of the process that submitted the batch knows its width.
    """
    n, results = batch.config.completions_per_prompt, [a for a in answers.values() if isinstance(a, GroupResult)]
    rows = n * batch.num_groups
    prompts = n * sum(answer.prompt.shape[0] for answer in answers.values() if answer.prompt is not None)
    widest = max([batch.prompt_width, *(answer.prompt.shape[0] for answer in results)])
    problem = _beyond("prompt_width", widest, rows, prompts, "read it with groups()")
    if problem is None and pad_to_max_new_tokens:
        responses = sum(int(result.lengths.numpy().sum()) for result in results)
        remedy = "leave pad_to_max_new_tokens out"
        problem = _beyond("max_new_tokens", batch.config.max_new_tokens, rows, responses, remedy)
    if problem is not None:
        raise UnreadableResultError(batch.batch_id, "ledger", problem)


def check_score_width(batch: ScoreDescription, answers: Iterable[GroupScores | GroupError]) -> None:
    """The same for the tensors of scores. Raises `UnreadableResultError`."""
    values = 1 + 2 * batch.top_logprobs
    scored = values * sum(len(answer) for answer in answers if isinstance(answer, GroupScores))
    problem = _beyond("width", batch.width, batch.num_groups * values, scored, "read it with groups()")
    if problem is not None:
        raise UnreadableResultError(batch.batch_id, "ledger", problem)


def _beyond(name: str, width: int, rows: int, tokens: int, remedy: str) -> str | None:
    if rows * width <= max(_ALWAYS, _CELLS_PER_TOKEN * tokens):
        return None
    return f"{name} is {width}, which makes {rows * width} columns of the {tokens} tokens in its answers: {remedy}"
