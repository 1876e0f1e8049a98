"""One tokenizer with its chat template: the only way from messages to token ids and back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rollstream.schemas import Guided

from ..growing_text import BROKEN, GrowingText, byte_ids_of, unknown_to
from .choices import forced_call
from .errors import ChatRequestError, ChatTemplateError
from .following import Continuation
from .growing import GrowingReply
from .habits import Habits
from .load_tokenizer import load_tokenizer
from .message_types import Message, Tool
from .opening import PROMPT_END, Opening
from .parsers import parser_named
from .reply import CLOSE, Reply, read_reply
from .template import ChatTemplate


class ChatFormat:
    """Turns messages into ids and sampled ids into replies. Nothing of it waits; long messages take milliseconds.

    `tool_calls` names how calls are written in replies: `auto` (by the template), `none`, or a name of
    `rollstream.producer.gateway.chat.parsers.NAMES`. Raises `ChatTemplateError` where the template is of no use.
    """

    def __init__(self, tokenizer: Any, *, tool_calls: str = "auto", eos_ids: Sequence[int] = ()) -> None:
        self.tokenizer = tokenizer
        self._template = ChatTemplate(tokenizer)
        try:
            self._habits = Habits.of(self._template, tokenizer, eos_ids)
        except ChatRequestError as error:
            raise ChatTemplateError(str(tokenizer.name_or_path), error.problem) from error
        self.parser = parser_named(tool_calls, self._template.source())
        self.thinks = CLOSE in self._template.source()
        self._byte_ids, self._unknown = byte_ids_of(tokenizer), unknown_to(tokenizer)
        self._opening = Opening(template=self._template, habits=self._habits)

    @classmethod
    def of(cls, folder: str | Path, *, tool_calls: str = "auto") -> ChatFormat:
        """The format of a model's folder. Reads files there and nothing else, and runs no code of them."""
        tokenizer, eos_ids = load_tokenizer(Path(folder))
        return cls(tokenizer, tool_calls=tool_calls, eos_ids=eos_ids)

    @property
    def grows(self) -> bool:
        """Whether parts of a reply can be told before it is whole."""
        return not self.parser.channels

    @property
    def ends(self) -> tuple[str, ...]:
        """The tokens that end a turn, the template's own first; none where it has none."""
        return self._habits.ends

    @property
    def end_ids(self) -> frozenset[int]:
        """Ids at which sampling must stop: they end a reply, whatever the model's EOS ids are."""
        return self._habits.stop_ids

    def ended(self, ids: Sequence[int]) -> bool:
        """Whether sampled ids end as a turn does: by length, a stop string or a stop id of one's own they do not."""
        return bool(ids) and ids[-1] in self._habits.end_ids

    def whole(self, messages: Sequence[Message], tools: Sequence[Tool] = (), /, **options: Any) -> list[int]:
        """The conversation's ids up to where the next reply begins, as transformers' `apply_chat_template` makes them.

        `options` are variables of the template, such as `enable_thinking`. Raises `ChatRequestError`.
        """
        self._habits.check(messages, tools)
        text = self._template.text(self._habits.told(messages), tools, options, prompt=True)
        return self._habits.ids(text)

    def following(
        self,
        history: Sequence[Message],
        new_messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        /,
        *,
        ended: bool,
        **options: Any,
    ) -> list[int]:
        """The ids to put behind a prompt and the ids that were sampled after it, for the reply after `new_messages`.

        `history` ends with the reply that was sampled; `ended` says whether its ids have an end of turn
        (`format.ended(ids)`). The sampled ids stay what they are: they are neither read nor made again here. Raises
        `ChatRequestError` where the template refuses the conversation, `NotContinuedError` where what it makes of
        earlier messages changes with those that come after them.
        """
        self._habits.check([*history, *new_messages], tools)
        continuation = Continuation(self._template, habits=self._habits, tools=tools, options=options)
        return continuation.ids(self._habits.told(history), self._habits.told(new_messages), ended=ended)

    def reply(
        self,
        ids: Sequence[int],
        tools: Sequence[Tool] = (),
        *,
        finish_reason: str = "stop",
        stop: str | None = None,
        keeps_stop: bool = False,
        seed: str = "",
        prompt: Sequence[int] = (),
    ) -> Reply:
        """What sampled ids say. `stop` is the stop string at which they ended, which is
        left out unless it is kept (`keeps_stop`); `seed` makes the ids of calls: the same
        one gives the same ids. `prompt` (its last ids are enough) tells whether the reply began inside a thought.
        """
        body = list(ids[:-1]) if self.ended(ids) else list(ids)
        text = self._habits.text(body)
        if stop and (at := self._stopped(text, stop, body)) is not None:
            text = text[: at + (len(stop) if keeps_stop else 0)]
        return read_reply(
            text,
            tools,
            parser=self.parser,
            thinks=self.thinks,
            opened=self._opens(prompt),
            plain=self._habits.plain,
            finish=finish_reason,
            seed=seed,
        )

    def forced_call(self, choice: object, tools: Sequence[Tool], /, **options: Any) -> Guided | None:
        """The guide under a `tool_choice` that wants a call; None where it wants none. Raises `ChatRequestError`."""
        asked: list[Message] = [{"role": "user", "content": "q"}]
        begun = self.thinks and self._opening.opens(self._template.text(asked, (), options, prompt=True))
        return forced_call(choice, tools, self.parser, thought="begun" if begun else "maybe" if self.thinks else "none")

    def growing(self, tools: Sequence[Tool] = (), prompt: Sequence[int] = ()) -> GrowingReply:
        """A reply to send while it is sampled; what it gives is how `reply` with the same arguments will begin."""
        return GrowingReply(
            text=GrowingText(self._habits.text, byte_ids=self._byte_ids, silent=self._unknown),
            plain=self._habits.plain,
            special=self._habits.special,
            end_ids=self._habits.end_ids,
            parser=self.parser if tools else None,
            thinks=self.thinks,
            opened=self._opens(prompt),
        )

    def _stopped(self, text: str, stop: str, ids: Sequence[int]) -> int | None:
        """Where the stop string begins: the first one that the last id ends, since no earlier one had stopped it.

        Where that id ends none (the engine looked at several ids at once), the last one.
        """
        before = len(self._habits.text(ids[:-1]).rstrip(BROKEN))
        found = text.find(stop, max(0, before - len(stop) + 1))
        found = text.rfind(stop) if found < 0 else found
        return None if found < 0 else found

    def _opens(self, prompt: Sequence[int]) -> bool:
        return self.thinks and self._opening.opens(self._habits.text(prompt[-PROMPT_END:]))
