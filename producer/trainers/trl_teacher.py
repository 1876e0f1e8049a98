"""A teacher for TRL's distillation trainers, in place of their `VLLMClient`. Imports nothing of TRL.

Written against `VLLMClient.get_sequence_logprobs` of trl 1.16.0 (trl/generation/vllm_client.py), which the experimental
trainers call as `self.teacher_client.get_sequence_logprobs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rollstream.schemas import ConfigError
from rollstream.schemas.generation.generation_config import MAX_CANDIDATES
from rollstream.schemas.plain_values import plain

from ..scores.score_batch import ScoreBatch
from .scoring import ScoringDropIn, complete_scores

if TYPE_CHECKING:
    import torch


class TeacherClient(ScoringDropIn):
    """Scores completions under a teacher's weights: assign it to a trainer's `teacher_client`."""

    def get_sequence_logprobs(
        self,
        sequences: Sequence[Sequence[int]],
        prompt_lengths: Sequence[int],
        top_logprobs: int = 100,
        temperature: float = 1.0,
        **_how: object,
    ) -> dict[str, list[Any]]:
        """The log-probs of each sequence's completion: lists by sequence, by token, and by candidate.

        `logprobs` and `logprob_token_ids` are of the `top_logprobs` likeliest ids, the likeliest first;
        `actual_logprobs` and `actual_token_ids` of the token that is there, alone in its list. A sequence that is all
        prompt has empty lists, as TRL has it. `chunk_size` and `max_concurrent_requests` are taken and not needed.

        Raises `ConfigError` for another temperature than 1 and for other `top_logprobs` than 1 to 128, `PromptsError`
        for a sequence without a prompt or shorter than its prompt, `RolloutFailedError` when a sequence failed, and
        what `Client.score` raises.
        """
        wanted = plain(top_logprobs)
        if type(wanted) is not int or not 1 <= wanted <= MAX_CANDIDATES:
            problem = f"a teacher gives 1 to {MAX_CANDIDATES} candidates for each token: give an integer"
            raise ConfigError("top_logprobs", problem, top_logprobs)
        if temperature != 1:
            raise ConfigError("temperature", "scores are the model's own, at temperature 1", temperature)
        actual = [
            [[int(token)] for token in ids[int(first) :]] for ids, first in zip(sequences, prompt_lengths, strict=True)
        ]
        there = [row for row, ids in enumerate(sequences) if len(ids) != int(prompt_lengths[row])]
        lists: dict[str, list[Any]] = {name: [[] for _ in actual] for name in _SCORED}
        if there:
            scores = complete_scores(
                self._client.score(
                    [list(sequences[row]) for row in there],
                    first=[int(prompt_lengths[row]) for row in there],
                    top_logprobs=wanted,
                    **self._options(),
                )
            )
            for name, values in zip(_SCORED, _columns(scores), strict=True):
                for row, one in zip(there, values.tolist(), strict=True):
                    lists[name][row] = one[: len(actual[row])]
        return {**lists, "actual_token_ids": actual}


_SCORED = ("logprobs", "logprob_token_ids", "actual_logprobs")


def _columns(scores: ScoreBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each (B, L, candidates), in the order of `_SCORED`."""
    assert scores.top_log_probs is not None  # noqa: S101 - asked for above
    assert scores.top_token_ids is not None  # noqa: S101
    return scores.top_log_probs, scores.top_token_ids, scores.log_probs[..., None]
