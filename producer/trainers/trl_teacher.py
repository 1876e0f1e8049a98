"""A teacher for TRL's distillation trainers, in place of their `VLLMClient`. Imports nothing of TRL.

Written against `VLLMClient.get_sequence_logprobs` of trl 1.16.0 (trl/generation/vllm_client.py), which the experimental
trainers call as `self.teacher_client.get_sequence_logprobs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rollstream.schemas import ConfigError

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
        `actual_logprobs` and `actual_token_ids` of the token that is there, alone in its list. `chunk_size` and
        `max_concurrent_requests` are taken and not needed.

        Raises `ConfigError` for another temperature than 1, `PromptsError` for a sequence without a completion or
        without a prompt, `RolloutFailedError` when a sequence failed, and what `Client.score` raises.
        """
        if top_logprobs < 1:
            raise ConfigError("top_logprobs", "a teacher gives 1 or more candidates for each token", top_logprobs)
        if temperature != 1:
            raise ConfigError("temperature", "scores are the model's own, at temperature 1", temperature)
        scores = complete_scores(
            self._client.score(
                [list(ids) for ids in sequences],
                first=list(prompt_lengths),
                top_logprobs=top_logprobs,
                **self._options(),
            )
        )
        firsts = [int(first) for first in prompt_lengths]
        actual = [[[int(token)] for token in ids[first:]] for ids, first in zip(sequences, firsts, strict=True)]
        assert scores.top_log_probs is not None  # noqa: S101 - asked for above
        assert scores.top_token_ids is not None  # noqa: S101
        return {
            "logprobs": _cut(scores.top_log_probs, actual),
            "logprob_token_ids": _cut(scores.top_token_ids, actual),
            "actual_logprobs": _cut(scores.log_probs[..., None], actual),
            "actual_token_ids": actual,
        }


def _cut(values: torch.Tensor, completions: list[list[list[int]]]) -> list[Any]:
    """(B, L, K) as lists, each as long as its completion."""
    return [row[: len(one)] for row, one in zip(values.tolist(), completions, strict=True)]
