"""A tokenizer's chat template: messages in, text out, within bounds of time and size."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..places import without_places
from .deadline import TOO_SLOW, within
from .errors import ChatRequestError
from .message_types import Message, Tool

_SECONDS = 10.0
_CHARACTERS = 1 << 24
_RESERVED = {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "chat_template"}


class ChatTemplate:
    """Renders with the tokenizer's own template, in the sandbox of transformers. `seconds` bound one rendering,
    `characters` what comes of it.
    """

    def __init__(self, tokenizer: Any, *, seconds: float = _SECONDS, characters: int = _CHARACTERS) -> None:
        self._tokenizer = tokenizer
        self._seconds = seconds
        self._characters = characters

    def source(self, tools: Sequence[Tool] = ()) -> str:
        """The template that is used with these tools: a tokenizer may have one for tools alone."""
        return str(self._tokenizer.get_chat_template(None, list(tools) or None))

    def text(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        options: Mapping[str, Any] | None = None,
        *,
        prompt: bool,
    ) -> str:
        """The conversation as text; with `prompt` up to where the assistant's next reply begins.

        Raises `ChatRequestError` if the template refuses the messages, knows no such option, or exceeds its bounds.
        """
        self._check_options(options or {}, tools)
        try:
            with within(self._seconds):
                text = self._tokenizer.apply_chat_template(
                    list(messages),
                    tools=[{"type": tool["type"], "function": tool["function"]} for tool in tools] or None,
                    add_generation_prompt=prompt,
                    tokenize=False,
                    **(options or {}),
                )
        except TOO_SLOW:
            raise _refused(f"the chat template needs more than {self._seconds:g} s for them") from None
        except (RecursionError, MemoryError) as error:
            raise _refused(f"the chat template cannot render them: {type(error).__name__}") from None
        except Exception as error:
            why = without_places(str(error)) or type(error).__name__
            raise _refused(f"the chat template refuses them: {why}") from error
        if len(text) > self._characters:
            raise _refused(f"they are {len(text):,} characters of text, more than {self._characters:,}")
        return str(text)

    def _check_options(self, options: Mapping[str, Any], tools: Sequence[Tool]) -> None:
        """A name that the template does not have would be ignored in silence."""
        for name in options:
            given = name in _RESERVED or name in self._tokenizer.special_tokens_map
            if given or not re.search(rf"\b{re.escape(name)}\b", self.source(tools)):
                why = "is not for requests to set" if given else "is not among what this chat template knows"
                raise ChatRequestError(f"chat_template_kwargs.{name[:80]}", "unsupported_parameter", why)


def _refused(problem: str) -> ChatRequestError:
    return ChatRequestError("messages", "invalid_messages", problem)
