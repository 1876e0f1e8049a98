"""How many tokens a request had."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rollstream.schemas import GroupResult


def usage_of(results: Sequence[GroupResult]) -> dict[str, Any]:
    """OpenAI's `usage`. The prompt counts once, however many completions it has.

    `cached_tokens` are those that the engine's prefix cache had, of all prompts together, where each worker told; none
    tells of a prompt with several completions.
    """
    prompt = sum(result.prompt.shape[0] for result in results)
    sampled = sum(sum(result.lengths.tolist()) for result in results)
    told = [result.cached_tokens for result in results]
    known = [tokens for tokens in told if tokens is not None]
    cached = {"cached_tokens": sum(known)} if len(known) == len(told) else None
    return {
        "prompt_tokens": prompt,
        "completion_tokens": sampled,
        "total_tokens": prompt + sampled,
        "prompt_tokens_details": cached,
    }


def finish_reason(reason: str) -> str:
    """Why a completion ended, in OpenAI's words."""
    return "length" if reason == "length" else "stop"
