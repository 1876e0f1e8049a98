"""Completions as text, decoded beside the event loop and within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

MOST_TOKENS = 16_384
MOST_CHARACTERS = 200_000
"""A tokenizer may have tokens of any length."""


class Texts:
    """One tokenizer. It decodes one text at a time: not every tokenizer takes more."""

    def __init__(self, *, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="texts")

    async def of(self, ids: Sequence[int]) -> str | None:
        """The text of the first `MOST_TOKENS` ids, special tokens included; None if they are no tokens of this model.

        Halves of surrogate pairs, which are no characters, become question marks.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._decode, list(ids[:MOST_TOKENS]))

    def _decode(self, ids: list[int]) -> str | None:
        try:
            text = str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        except (ValueError, TypeError, OverflowError, IndexError, KeyError):  # each tokenizer has its own
            return None
        return text[:MOST_CHARACTERS].encode("utf-8", "replace").decode("utf-8")
