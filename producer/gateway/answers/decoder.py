"""Token ids as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

BROKEN = "\ufffd"
"""What stands for bytes that are no character, or not yet a whole one."""


class Decoder:
    """One tokenizer. Of an id that it does not have it makes nothing."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.piece: Callable[[int], str] = lru_cache(maxsize=2**16)(self._piece)
        """The text of one id, special tokens included."""

    def text(self, ids: Sequence[int], *, special_tokens: bool = False) -> str:
        """The text of these ids. Halves of surrogate pairs, which are no characters, become question marks."""
        try:
            text = self._tokenizer.decode(
                list(ids), skip_special_tokens=not special_tokens, clean_up_tokenization_spaces=False
            )
        except (ValueError, TypeError, OverflowError, IndexError, KeyError):  # each tokenizer has its own
            return ""
        return str(text).encode("utf-8", "replace").decode("utf-8")

    def _piece(self, one: int) -> str:
        return self.text([one], special_tokens=True)


class GrowingText:
    """The text of ids that come some at a time. Half a character waits for its other half.

    It decodes only what came since the last whole character, and that after the piece before it: some tokenizers drop
    the blank at the beginning of what they decode.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._from = 0
        self._read = 0
        self.text = ""
        """All that was given out."""

    def offsets(self, ids: Sequence[int]) -> list[int]:
        """Add ids one by one, and say where the text of each begins: behind the whole characters before it."""
        found: list[int] = []
        for one in ids:
            found.append(len(self.text))
            self.add([one])
        return found

    def add(self, ids: Sequence[int]) -> str:
        """The whole characters that these ids end; often fewer, or none."""
        self._ids += ids
        before, now = self._decode(self._ids[self._from : self._read]), self._decode(self._ids[self._from :])
        if len(now) <= len(before) or now.endswith(BROKEN) or not now.startswith(before):
            return ""
        self._from, self._read = self._read, len(self._ids)
        self.text += now[len(before) :]
        return now[len(before) :]
