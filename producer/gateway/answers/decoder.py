"""Token ids as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

from ..growing_text import GrowingText, byte_ids_of, unknown_to


class Decoder:
    """One tokenizer. Of an id that it does not have it makes nothing."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.piece: Callable[[int], str] = lru_cache(maxsize=2**16)(self._piece)
        """The text of one id, special tokens included."""
        self._byte_ids = byte_ids_of(tokenizer)
        self._unknown = unknown_to(tokenizer)
        self._left_out = lru_cache(maxsize=2**16)(self._is_left_out)

    def text(self, ids: Sequence[int], *, special_tokens: bool = False) -> str:
        """The text of these ids. Halves of surrogate pairs, which are no characters, become question marks."""
        try:
            text = self._tokenizer.decode(
                list(ids), skip_special_tokens=not special_tokens, clean_up_tokenization_spaces=False
            )
        except (ValueError, TypeError, OverflowError, IndexError, KeyError):  # each tokenizer has its own
            return ""
        return str(text).encode("utf-8", "replace").decode("utf-8")

    def growing(self, *, special_tokens: bool = False) -> GrowingText:
        """A text of ids that come some at a time: `text` of all of them begins with it."""
        decode = partial(self.text, special_tokens=special_tokens)
        return GrowingText(decode, byte_ids=self._byte_ids, silent=self._unknown if special_tokens else self._left_out)

    def _piece(self, one: int) -> str:
        return self.text([one], special_tokens=True)

    def _is_left_out(self, one: int) -> bool:
        return self._unknown(one) or (self.piece(one) != "" and self.text([one]) == "")
