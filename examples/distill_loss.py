"""The loss of `distill`: how far a student is from the little that is known of its teacher."""

from __future__ import annotations

import torch


def divergence(logits: torch.Tensor, top_ids: torch.Tensor, top_log_probs: torch.Tensor) -> torch.Tensor:
    """Mean KL(teacher || student) in nats over the teacher's K likeliest tokens and one bin for all others.

    `logits`: the student's, (N, V); `top_ids` and `top_log_probs`: the teacher's, (N, K). The bin makes both sides
    distributions, so that the student gains nothing by putting probability where the teacher was not asked. It is a
    lower bound of the whole KL, and equal to it for K = V.
    """
    log_probs = logits.float().log_softmax(-1).gather(-1, top_ids)
    teacher = top_log_probs.float()
    return (_terms(teacher, log_probs).sum(-1) + _terms(_others(teacher), _others(log_probs))).mean()


def _terms(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    return teacher.exp() * (teacher - student)


def _others(log_probs: torch.Tensor) -> torch.Tensor:
    """(N,): the log-probability of all tokens but these."""
    rest = 1 - log_probs.exp().sum(-1)
    return rest.clamp(min=1e-9).log()
