"""A reply while it grows: what of it is sure can be sent before it is whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ..growing_text import GrowingText
from .errors import ReplyChangedError
from .parsers import Parser
from .reply import CLOSE, OPEN, SPACES, Reply


class Delta(NamedTuple):
    """What comes next of a reply's text, and of its thought."""

    content: str = ""
    reasoning: str = ""


class GrowingReply:
    """Takes sampled ids as they come and gives text that will not change: all deltas together are the final reply.

    Half a character waits for its other half, a text that may be a mark (the end of a thought, the begin of a call, a
    special token) until it is none. `text` decodes ids with their special tokens, `plain` drops these.
    """

    def __init__(
        self,
        *,
        text: GrowingText,
        plain: Callable[[str], str],
        special: Iterable[str],
        end_ids: frozenset[int],
        parser: Parser | None,
        thinks: bool,
        opened: bool,
    ) -> None:
        self._grown = text
        self._plain = plain
        self._end_ids = end_ids
        self._marks = parser.marks if parser else ()
        self._leading = parser is not None and parser.leading
        self._special = tuple(token for token in special if token)
        marks = (*self._marks, *((OPEN, CLOSE) if thinks else ()), *self._special)
        self._begins = {mark[:length] for mark in marks for length in range(1, len(mark))}
        self._longest = max(map(len, self._begins), default=0)
        self._kept: list[int] = []
        self._text = ""
        self._part = "begin" if thinks else "content"
        self._opened = opened
        self._after_thought = False
        self._sent = {"content": "", "reasoning": ""}
        self._begun: set[str] = set()
        self._called = False

    def feed(self, ids: Sequence[int]) -> Delta:
        """What is sure once these ids have come too."""
        self._text += self._new_text(ids)
        delta = Delta()
        while (more := self._step()) is not None:
            delta = Delta(delta.content + more.content, delta.reasoning + more.reasoning)
        return delta

    def rest(self, reply: Reply) -> Delta:
        """What of the whole reply was not given yet. Raises `ReplyChangedError` if it is no longer what was given."""
        content, reasoning = reply.content or "", reply.reasoning or ""
        if not content.startswith(self._sent["content"]) or not reasoning.startswith(self._sent["reasoning"]):
            raise ReplyChangedError("what was sent of a reply is not how the whole reply begins")
        return Delta(content[len(self._sent["content"]) :], reasoning[len(self._sent["reasoning"]) :])

    def _new_text(self, ids: Sequence[int]) -> str:
        """Text that these ids make sure; an end of turn is kept until something follows it."""
        ids = [*self._kept, *ids]
        self._kept = ids[-1:] if ids and ids[-1] in self._end_ids else []
        return self._grown.add(ids[: len(ids) - len(self._kept)])

    def _step(self) -> Delta | None:
        """What one part of the reply gives; None where more ids must come first."""
        if self._part == "begin":
            return self._begin()
        if self._part == "thought":
            return self._thought()
        return self._content()

    def _begin(self) -> Delta | None:
        """Whether the reply begins with a thought: spaces before one are none of it.

        A thought that the prompt had begun may be begun again.
        """
        body = self._text.lstrip()
        begins = body.startswith(OPEN)
        if not begins and OPEN.startswith(body):
            return None
        if begins:
            self._text = body.removeprefix(OPEN)
        self._after_thought = begins or self._opened
        self._part = "thought" if self._after_thought else "content"
        return Delta()

    def _thought(self) -> Delta | None:
        if "reasoning" not in self._begun:
            self._text = self._text.lstrip("\n")
        thought, close, said = self._text.partition(CLOSE)
        if not close:
            return self._sure("reasoning", _less_lines)
        self._part, self._text = "content", said
        return self._given("reasoning", _less_lines(thought))

    def _content(self) -> Delta | None:
        if self._after_thought and "content" not in self._begun:
            self._text = self._text.lstrip("\n")
        if self._called or (self._leading and self._marks and not self._none_leads()):
            return None
        found = [self._text.index(mark) for mark in self._marks if mark in self._text]
        if not found:
            return self._sure("content", self._before_call if self._marks else str)
        self._called = True
        return self._given("content", self._before_call(self._text[: min(found)]))

    def _before_call(self, text: str) -> str:
        """Without what content loses before a call: spaces at its end, and special tokens, which nobody is told."""
        while (shorter := text.rstrip(SPACES)).endswith(self._special):
            text = shorter.removesuffix(next(token for token in self._special if shorter.endswith(token)))
        return shorter

    def _none_leads(self) -> bool:
        """Whether it is sure that the reply does not begin with a call; then there is none to be waited for."""
        body = self._text.lstrip()
        if any(body.startswith(mark) or mark.startswith(body) for mark in self._marks):
            return False
        self._marks = ()
        return True

    def _sure(self, part: str, kept: Callable[[str], str]) -> Delta | None:
        """Give all but what may become a mark, and what of its end the whole reply may lose: `kept` is the rest."""
        sure = self._text[: len(self._text) - self._waiting()]
        sure = kept(sure)
        if not sure:
            return None
        self._text = self._text[len(sure) :]
        return self._given(part, sure)

    def _waiting(self) -> int:
        """How many characters at the end of the text may be the beginning of a mark."""
        longest = min(self._longest, len(self._text))
        return next((length for length in range(longest, 0, -1) if self._text[-length:] in self._begins), 0)

    def _given(self, part: str, text: str) -> Delta:
        if text:
            self._begun.add(part)
        plain = self._plain(text)
        self._sent[part] += plain
        return Delta(content=plain) if part == "content" else Delta(reasoning=plain)


def _less_lines(text: str) -> str:
    return text.rstrip("\n")
