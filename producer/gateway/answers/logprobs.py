"""Log-probs in the two shapes that OpenAI has for them."""

from __future__ import annotations

from typing import Any

from ..growing_text import BROKEN
from .decoder import Decoder
from .pieces import Piece

_LEAST = -9999.0
"""What stands for minus infinity, which JSON does not have; OpenAI's own."""


def chat_logprobs(piece: Piece, decoder: Decoder, most: int) -> dict[str, Any]:
    """`logprobs` of a choice of a conversation, with the `most` likeliest of each token."""
    content = [
        {
            **_token(one, logprob, decoder),
            "top_logprobs": [_token(*candidate, decoder) for candidate in (piece.top[at][:most] if most else [])],
        }
        for at, (one, logprob) in enumerate(zip(piece.ids, piece.logprobs, strict=True))
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(piece: Piece, decoder: Decoder, most: int, offsets: list[int]) -> dict[str, Any]:
    """`logprobs` of a choice of a completion. `offsets`: the character of its text at which each token begins."""
    tokens = [decoder.piece(one) for one in piece.ids]
    return {
        "tokens": tokens,
        "token_logprobs": [_number(logprob) for logprob in piece.logprobs],
        "top_logprobs": [_named(piece, at, decoder, most) for at in range(len(tokens))] if most else None,
        "text_offset": offsets,
    }


def _named(piece: Piece, at: int, decoder: Decoder, most: int) -> dict[str, float]:
    """The likeliest by their texts, and the sampled token; of two with the same text the likelier."""
    found: dict[str, float] = {}
    for one, logprob in [*piece.top[at][:most], (piece.ids[at], piece.logprobs[at])]:
        found.setdefault(decoder.piece(one), _number(logprob))
    return found


def _token(one: int, logprob: float, decoder: Decoder) -> dict[str, Any]:
    text = decoder.piece(one)
    whole = BROKEN not in text
    return {"token": text, "logprob": _number(logprob), "bytes": list(text.encode()) if whole else None}


def _number(logprob: float) -> float:
    return max(logprob, _LEAST)
