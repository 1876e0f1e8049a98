"""How many bytes the answer to one prompt may have: submits refuse larger ones, and workers reserve as much."""

from __future__ import annotations

from ...errors import ConfigError
from ...generation.generation_config import MAX_SUPPORT_TIES, GenerationConfig
from .limits import MAX_BYTES

_ID_BITS, _MASK_BITS, _LOGPROB_BITS, _COUNT_BITS = 32, 1, 32, 32
MAX_RESULT_BYTES = MAX_BYTES - 2**20
"""Most bytes of its tensors; the rest of the message is left for reasons, version spans and texts."""


def bits_per_token(config: GenerationConfig) -> int:
    """Bits of a `GroupResult` for one sampled token. An option that adds an (n, L) tensor adds its term here."""
    bits = _ID_BITS + _MASK_BITS + (0 if config.logprobs is None else _LOGPROB_BITS)
    bits += config.top_logprobs * (_ID_BITS + _LOGPROB_BITS) + len(config.label_token_ids) * _LOGPROB_BITS
    bits += (config.top_k + MAX_SUPPORT_TIES) * _ID_BITS + _COUNT_BITS if config.sampling_support else 0
    return bits + (0 if config.thinking_budget is None else _MASK_BITS)


def result_bytes(config: GenerationConfig, prompt_tokens: int = 0) -> int:
    """Bytes of the tensors of one group's answer, if each of its completions has `max_new_tokens` tokens.

    With `first_k` the answer has so many, and of the others that were sampled only their lengths.

    `prompt_tokens`: length of its prompt, which is part of the answer; 0 to count only generated tokens.
    """
    answered = config.sequences_per_prompt if config.first_k is None else config.first_k
    cut = config.sequences_per_prompt - answered
    bits = answered * config.max_new_tokens * bits_per_token(config)
    return (prompt_tokens + cut) * _ID_BITS // 8 + -(-bits // 8)


def check_result_fits(config: GenerationConfig, longest_prompt: int) -> None:
    """Raises `ConfigError` if the answer to a prompt of `longest_prompt` tokens may be too large for a message."""
    nbytes = result_bytes(config, longest_prompt)
    if nbytes <= MAX_RESULT_BYTES:
        return
    sequences = config.first_k or config.sequences_per_prompt
    problem = (
        f"{sequences} sequences of {config.max_new_tokens} tokens, at {bits_per_token(config)} bits "
        f"each, and a prompt of {longest_prompt} make a result of {nbytes} bytes, and one message carries "
        f"{MAX_RESULT_BYTES}: ask for fewer or shorter completions a prompt, for less of each token (top_logprobs, "
        "label_token_ids, sampling_support, logprobs=None), or shorten the prompt"
    )
    raise ConfigError("max_new_tokens", problem, config.max_new_tokens)


def score_bytes(columns: int, top_logprobs: int) -> int:
    """Bytes of the tensors of one row's `GroupScores`, for `columns` scored tokens."""
    return columns * (_LOGPROB_BITS + top_logprobs * (_ID_BITS + _LOGPROB_BITS)) // 8
