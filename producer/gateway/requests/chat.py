"""POST /v1/chat/completions, read from its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rollstream.schemas.errors import shown

from ..chat import ChatRequestError, checked_messages, checked_tools
from ..errors import ApiError, bad
from .asked import ChatAsked, Shown, Terms
from .common import caller_of, model_of, shown_logprobs, stream_of, unused
from .parameters import Parameters
from .refused import OF_CHAT
from .sampling import MOST_LOGPROBS, config_of, most_tokens

_MOST_OPTIONS = 32
_NO_FORCED = "only auto and none are offered: no call is forced"


def chat_asked(told: Mapping[str, Any], headers: Mapping[str, str], terms: Terms) -> ChatAsked:
    """What the request asks for. Raises `ApiError` with the parameter's name; `headers` in lower case."""
    asked = Parameters(told)
    model, adapter = model_of(asked, terms.policy)
    if not terms.has_chat:
        raise ApiError(400, "this model has no chat template: use /v1/completions", "messages", "no_chat_template")
    messages, tools = _conversation(asked)
    logprobs = _logprobs(asked)
    names = ("max_completion_tokens", "max_tokens")
    most = most_tokens({name: asked.integer(name, 1) for name in names}, terms.max_tokens)
    ends = () if told.get("ignore_eos") is True else sorted(terms.end_ids)
    config = config_of(asked, max_tokens=most, logprobs=logprobs, more_stops=ends)
    found = ChatAsked(
        model=model,
        adapter=adapter,
        config=config,
        shown=Shown(logprobs=logprobs, token_ids=asked.boolean("return_token_ids")),
        stream=stream_of(asked, config),
        caller=caller_of(asked, headers),
        user=unused(asked),
        messages=messages,
        tools=tools,
        template_options=_options(asked),
    )
    asked.only("add_generation_prompt", True, why="the reply is always begun: leave it out")
    asked.only("continue_final_message", False, why="an unfinished reply is not gone on with: leave it out")
    asked.only("add_special_tokens", False, why="the chat template puts them: leave it out")
    asked.only("skip_special_tokens", True, why="replies are read with them: ask for return_token_ids")
    asked.only("echo", False, why="only what was sampled is sent")
    asked.only("include_reasoning", True, why="a thought is told apart, in reasoning_content: leave it out")
    asked.end(OF_CHAT)
    return found


def _conversation(asked: Parameters) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    given, listed = asked.take("messages"), asked.take("tools")
    if given is None:
        raise bad("messages", "it is required")
    try:
        messages = checked_messages(given)
        tools = [] if listed is None else checked_tools(listed)
    except ChatRequestError as error:
        raise ApiError(400, str(error), error.param, error.code) from None
    choice = asked.take("tool_choice")
    if choice == "none":
        tools = []
    elif choice is not None and (choice != "auto" or not tools):
        raise bad("tool_choice", _NO_FORCED if tools else "only with tools", "unsupported_parameter")
    asked.only("parallel_tool_calls", True, *(() if tools else (False,)), why="a reply may make several calls")
    _only_modalities(asked)
    return messages, tools


def _only_modalities(asked: Parameters) -> None:
    asked.only("modalities", ["text"], why="only text is offered")


def _logprobs(asked: Parameters) -> int | None:
    wanted, most = asked.boolean("logprobs"), asked.take("top_logprobs")
    if most is None:
        return 0 if wanted else None
    if not wanted:
        raise bad("top_logprobs", "only with logprobs=true", "invalid_value")
    if type(most) is not int or not 0 <= most <= MOST_LOGPROBS:
        raise bad("top_logprobs", f"give an integer from 0 to {MOST_LOGPROBS}, not {shown(most)}", "invalid_value")
    return shown_logprobs(most, MOST_LOGPROBS)


def _options(asked: Parameters) -> dict[str, Any]:
    """Variables of the template: names, and plain values."""
    options = asked.mapping("chat_template_kwargs") or {}
    if len(options) > _MOST_OPTIONS:
        raise bad("chat_template_kwargs", f"give at most {_MOST_OPTIONS}", "invalid_value")
    for name in options:
        if not (name.isascii() and name.isidentifier()) or name in _TAKEN:
            raise bad("chat_template_kwargs", f"{shown(name)} is no variable of a template", "invalid_value")
    return options


_TAKEN = {"messages", "tools", "add_generation_prompt", "chat_template", "tokenize", "ended", "self"}
"""Names that are the conversation's own."""
