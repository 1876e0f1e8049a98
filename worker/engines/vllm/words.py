"""What the engine's tokenizer makes of the texts in a config. Imports no vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rollstream.schemas import ErrorCode

from ...engine import EngineInfo
from ...errors import DataError


def special_tokens(tokenizer: Any) -> dict[int, str]:
    """The special tokens, which plain decoding leaves out, by id. `tokenizer` is vLLM's, or None."""
    if tokenizer is None:
        return {}
    added = getattr(tokenizer, "added_tokens_decoder", None)
    if added is not None:
        return {number: token.content for number, token in added.items() if token.special}
    return dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))


def check_bad_words(words: Sequence[Sequence[int]], info: EngineInfo) -> None:
    """Check `words`, given as token ids. Raises `DataError` for words that the engine cannot ban or would die of."""
    outside = next((token for word in words for token in word if token >= info.vocab_size), None)
    if outside is not None:
        problem = (
            f"bad_words: the tokenizer gives id {outside}, outside the model's vocabulary of {info.vocab_size} ids"
        )
        raise DataError(ErrorCode.TOKEN_OUT_OF_VOCABULARY, "bad_words", problem)
    tokens = sum(map(len, words))
    if info.max_bad_word_tokens is not None and tokens > info.max_bad_word_tokens:
        problem = f"bad_words: {tokens} tokens are more than the {info.max_bad_word_tokens} that the engine can ban"
        raise DataError(ErrorCode.INVALID_CONFIG, "bad_words", problem)
