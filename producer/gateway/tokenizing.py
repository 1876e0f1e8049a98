"""Texts and messages become ids in one thread beside the event loop: not every tokenizer takes two at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from heapq import heappop, heappush
from itertools import count
from typing import Any, TypeVar

from .errors import ApiError, bad
from .requests.asked import CompletionAsked

T = TypeVar("T")
_RETRY_S = 5


class Tokenizing:
    """One tokenizer, and the thread that alone uses it: for the shortest text that waits first."""

    def __init__(self, *, tokenizer: Any, most_waiting: int) -> None:
        """`most_waiting`: characters of texts that wait at once; a longer one is taken while no other does."""
        self._tokenizer = tokenizer
        self._most = most_waiting
        self._held = 0
        self._line: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = count()
        self._is_taken = False
        self._tasks: set[asyncio.Task[Any] | None] = set()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenizing")

    async def apart(self, work: Callable[[], T], characters: int = 0) -> T:
        """What `work` gives, in the thread. `characters`: of its text; 0 for work that is owed.

        Raises `ApiError` (429) where too much text waits already.
        """
        with self._waiting(characters):
            return await self._next(work, characters)

    def has(self, task: asyncio.Task[Any]) -> bool:
        """Whether this task waits for the thread, or for what it makes."""
        return task in self._tasks

    @contextmanager
    def _waiting(self, characters: int) -> Iterator[None]:
        if characters and self._held and self._held + characters > self._most:
            text = "too much text waits for the tokenizer already: ask again soon, or send less at once"
            raise ApiError(429, text, None, "overloaded", retry_after_s=_RETRY_S)
        self._held += characters
        self._tasks.add(task := asyncio.current_task())
        try:
            yield
        finally:
            self._held -= characters
            self._tasks.discard(task)

    async def _next(self, work: Callable[[], T], characters: int) -> T:
        async with self._turn(characters):
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    @asynccontextmanager
    async def _turn(self, characters: int) -> AsyncGenerator[None]:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heappush(self._line, (characters, next(self._numbers), turn))
        self._call_next()
        try:
            await turn
            yield
        finally:
            if not turn.cancelled():
                self._is_taken = False
                self._call_next()

    def _call_next(self) -> None:
        while self._line and not self._is_taken:
            *_, turn = heappop(self._line)
            if not turn.cancelled():
                turn.set_result(None)
                self._is_taken = True

    async def prompts(self, asked: CompletionAsked) -> list[list[int]]:
        """The ids of each prompt. Raises `ApiError` for a text that has none."""
        with self._waiting(asked.characters):
            return [await self._next(partial(self._ids, one, asked.special_tokens), len(one)) for one in asked.prompts]

    def _ids(self, prompt: str | Sequence[int], special_tokens: bool) -> list[int]:
        if not isinstance(prompt, str):
            return list(prompt)
        ids = list(self._tokenizer(prompt, add_special_tokens=special_tokens)["input_ids"])
        if not ids:
            raise bad("prompt", "the tokenizer makes no token of it", "invalid_value")
        return ids
