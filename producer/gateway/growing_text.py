"""The text of token ids that come some at a time: what is given out of it never changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

BROKEN = "\ufffd"
"""What stands for bytes that are no character, or not yet a whole one."""
_BEGUN = 3
"""A character has at most four bytes, so at most so many ids have the beginning of one."""


def byte_ids_of(tokenizer: Any) -> frozenset[int]:
    """The ids `<0x00>` to `<0xFF>` of a tokenizer with byte fallback (Llama 2, Mistral, Gemma); none of another."""
    names = [f"<0x{value:02X}>" for value in range(256)]
    ids = tokenizer.convert_tokens_to_ids(names)
    found = None not in ids and tokenizer.convert_ids_to_tokens(ids) == names
    return frozenset(ids) if found else frozenset()


def unknown_to(tokenizer: Any) -> Callable[[int], bool]:
    """Tells which ids a tokenizer does not have: models sample from more rows than it has tokens."""

    def unknown(one: int) -> bool:
        try:
            return tokenizer.convert_ids_to_tokens(one) is None
        except (ValueError, TypeError, OverflowError, IndexError, KeyError):  # each tokenizer has its own
            return True

    return lru_cache(maxsize=2**16)(unknown)


class GrowingText:
    """The text of ids that come some at a time. Half a character waits for its other half.

    `byte_ids` are decoded as one where they follow each other, whole or each as broken, so a run of them waits for what
    ends it. Of ids that are `silent` nothing is ever decoded, and they part nothing. It decodes only the ids that wait,
    behind some before them: some tokenizers drop the blank at the beginning of what they decode.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        *,
        byte_ids: frozenset[int] = frozenset(),
        silent: Callable[[int], bool] = lambda _: False,
    ) -> None:
        self._decode = decode
        self._byte_ids = byte_ids
        self._silent = silent
        self._before: list[int] = []
        self._waiting: list[int] = []
        self.text = ""
        """All that was given out."""

    def offsets(self, ids: Sequence[int]) -> list[int]:
        """Add ids one by one, and say where the text of each begins: behind the whole characters before it.

        Bytes that follow each other all begin where the first one does.
        """
        found: list[int] = []
        for one in ids:
            run = self._waiting and self._waiting[-1] in self._byte_ids
            if run and one not in self._byte_ids and not self._silent(one):
                self._give()
            found.append(len(self.text))
            self.add([one])
        return found

    def add(self, ids: Sequence[int]) -> str:
        """The text that these ids make sure; often less than theirs, or none."""
        sent = len(self.text)
        self._waiting += [one for one in ids if not self._silent(one)]
        if self._waiting and self._waiting[-1] not in self._byte_ids:
            self._give()
        return self.text[sent:]

    def _give(self) -> None:
        """Give out what waits, but for the beginning of a character."""
        now = self._decode(self._before + self._waiting)
        given = len(self._waiting) - self._begun(now)
        if given < len(self._waiting):
            now = self._decode(self._before + self._waiting[:given])
        before = self._decode(self._before)
        if len(now) <= len(before) or not now.startswith(before):
            return
        self.text += now[len(before) :]
        self._before = (self._before + self._waiting[:given])[-_BEGUN - 1 :]
        self._waiting = self._waiting[given:]

    def _begun(self, now: str) -> int:
        """How many of the last ids may have the beginning of a character.

        Where the ids before them and they are decoded apart as they are together, none of those bytes is theirs.
        """
        if self._byte_ids or not now.endswith(BROKEN):
            return 0
        ids = self._before + self._waiting
        most = min(_BEGUN, len(self._waiting))
        apart = (last for last in range(1, most) if self._decode(ids[:-last]) + self._decode(ids[-last:]) == now)
        return next(apart, most)
