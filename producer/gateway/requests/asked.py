"""What one request asks for, once everything in it was checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rollstream.schemas import GenerationConfig, Guided

MOST_COMPLETIONS = 4096
"""Completions of one request, unless the gateway was told another number."""
MOST_CHARACTERS = 2**20
"""Characters of one prompt or conversation, likewise: a tokenizer takes seconds for them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What of a completion the answer shows."""

    logprobs: int | None = None
    """How many of the likeliest ids come with each token's own log-prob; None: no log-probs at all."""
    token_ids: bool = False
    """Whether ids of prompt and completions come with the text (vLLM's `return_token_ids`)."""
    special_tokens: bool = False
    """Whether the text has the special tokens too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Streamed:
    """That the answer is sent while it is made."""

    usage: bool = False
    """Whether a last chunk says how many tokens there were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks, and by which names the answer can be had again."""

    request_id: str | None = None
    """The same id has the same answer; None: nobody asks again, so a request whose client is gone is cancelled."""
    session: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What both kinds of requests have."""

    model: str
    adapter: str | None
    config: GenerationConfig
    shown: Shown
    stream: Streamed | None
    caller: Caller
    user: str = ""
    words: Mapping[str, str] = field(default_factory=dict)
    """Parameters of this request by our fields, where they are not those of `words.THEIRS`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionAsked(Asked):
    """POST /v1/completions."""

    prompts: tuple[str | tuple[int, ...], ...]
    """Texts, or token ids."""
    special_tokens: bool = True
    """Whether the tokenizer puts its special tokens, such as BOS, around texts."""

    @property
    def characters(self) -> int:
        """How much text is to become tokens."""
        return sum(len(one) for one in self.prompts if isinstance(one, str))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatAsked(Asked):
    """POST /v1/chat/completions."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] = field(default_factory=list)
    has_calls: bool = True
    """Whether calls are read out of the reply; with `tool_choice` none they stay text."""
    forced: tuple[str, ...] = ()
    """The tools of which the reply must be a call; none: it may be anything."""
    template_options: dict[str, Any] = field(default_factory=dict)

    @property
    def characters(self) -> int:
        """How much text is to become tokens."""
        return _characters([self.messages, self.tools, self.template_options])


def _characters(value: Any) -> int:
    """All texts of a JSON value."""
    if isinstance(value, dict):
        return sum(len(name) + _characters(one) for name, one in value.items())
    if isinstance(value, list):
        return sum(map(_characters, value))
    return len(value) if isinstance(value, str) else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the gateway itself holds requests to."""

    policy: str
    max_tokens: int = 1024
    """Tokens of a completion whose request does not say."""
    max_completions: int = MOST_COMPLETIONS
    """Completions of one request: its prompts times `n`."""
    max_characters: int = MOST_CHARACTERS
    """Characters of one prompt or conversation."""
    has_chat: bool = False
    """Whether the tokenizer has a chat template."""
    end_ids: frozenset[int] = frozenset()
    """Ids that end a turn of it."""
    grows: bool = True
    """Whether parts of a reply can be told before it is whole."""
    forced_call: Callable[..., Guided | None] | None = None
    """`ChatFormat.forced_call` of the model."""
