"""Texts and messages become ids in one thread beside the event loop: not every tokenizer takes two at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from .errors import bad
from .requests.asked import CompletionAsked

T = TypeVar("T")


class Tokenizing:
    """One tokenizer, and the thread that alone uses it."""

    def __init__(self, *, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenizing")

    async def apart(self, work: Callable[[], T]) -> T:
        """What `work` gives, in the thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def prompts(self, asked: CompletionAsked) -> list[list[int]]:
        """The ids of each prompt. Raises `ApiError` for a text that has none."""
        return await self.apart(lambda: [self._ids(one, asked.special_tokens) for one in asked.prompts])

    def _ids(self, prompt: str | Sequence[int], special_tokens: bool) -> list[int]:
        if not isinstance(prompt, str):
            return list(prompt)
        ids = list(self._tokenizer(prompt, add_special_tokens=special_tokens)["input_ids"])
        if not ids:
            raise bad("prompt", "the tokenizer makes no token of it", "invalid_value")
        return ids
