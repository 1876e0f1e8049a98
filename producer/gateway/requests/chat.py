"""POST /v1/chat/completions, read from its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rollstream.schemas import Guided
from rollstream.schemas.errors import shown

from ..chat import ChatRequestError, checked_messages, checked_tools, forced_names, mapping_at
from ..errors import ApiError, bad
from .asked import ChatAsked, Shown, Terms
from .common import caller_of, check_count, check_text, model_of, shown_logprobs, stream_of, unused
from .parameters import Parameters
from .refused import OF_CHAT
from .sampling import MOST_LOGPROBS, config_of, guided_by, most_tokens

_MOST_OPTIONS = 32


def chat_asked(told: Mapping[str, Any], headers: Mapping[str, str], terms: Terms) -> ChatAsked:
    """What the request asks for. Raises `ApiError` with the parameter's name; `headers` in lower case."""
    asked = Parameters(told)
    model, adapter = model_of(asked, terms.policy)
    if not terms.has_chat:
        raise ApiError(400, "this model has no chat template: use /v1/completions", "messages", "no_chat_template")
    messages, tools = _conversation(asked)
    options, choice = _options(asked), _tool_choice(asked, tools)
    forced = _forced(choice, tools, options, terms)
    logprobs = _logprobs(asked)
    names = ("max_completion_tokens", "max_tokens")
    most = most_tokens({name: asked.integer(name, 1) for name in names}, terms.max_tokens)
    ends = () if told.get("ignore_eos") is True else sorted(terms.end_ids)
    config = config_of(asked, most=most, logprobs=logprobs, more_stops=ends, forced=forced)
    check_count(1, config, terms)
    if told.get("stream") is True:
        _check_grows(terms, is_forced=forced is not None)
    found = ChatAsked(
        model=model,
        adapter=adapter,
        config=config,
        shown=Shown(logprobs=logprobs, token_ids=asked.boolean("return_token_ids")),
        stream=stream_of(asked, config),
        caller=caller_of(asked, headers),
        user=unused(asked),
        words={"guided": guided_by(told, forced), "max_new_tokens": most.name, "prompt": "messages"},
        messages=messages,
        tools=tools,
        has_calls=choice != "none",
        forced=forced_names(choice, tools),
        template_options=options,
    )
    check_text("messages", found.characters, terms)
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
    _only_modalities(asked)
    return messages, tools


def _tool_choice(asked: Parameters, tools: list[dict[str, Any]]) -> object:
    """`auto`, `none`, `required` or a function; which of them, the format of the model checks."""
    choice = asked.take("tool_choice")
    if choice not in (None, "none") and not tools:
        raise bad("tool_choice", "only with tools", "invalid_value")
    one_alone = not tools or isinstance(choice, dict)
    asked.only("parallel_tool_calls", True, *((False,) if one_alone else ()), why="a reply may make several calls")
    return choice


def _forced(choice: object, tools: list[dict[str, Any]], options: dict[str, Any], terms: Terms) -> Guided | None:
    if choice is None or choice in ("auto", "none"):
        return None
    if terms.forced_call is None:
        raise bad("tool_choice", "no call can be forced here: give auto or none", "unsupported_parameter")
    try:
        return terms.forced_call(choice, tools, **options)
    except ChatRequestError as error:
        raise ApiError(400, str(error), error.param, error.code) from None


def _check_grows(terms: Terms, *, is_forced: bool) -> None:
    """Raises `ApiError` for a stream of a reply that cannot be told before it is whole."""
    if is_forced:
        why = "with this tool_choice nothing of a reply is known for good before its end: stream=false"
        raise bad("stream", why, "unsupported_parameter")
    if not terms.grows:
        why = "replies of this model are parted in channels and read when they are whole: stream=false"
        raise bad("stream", why, "unsupported_parameter")


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
    try:
        return dict(mapping_at(options, "chat_template_kwargs"))
    except ChatRequestError as error:
        raise ApiError(400, str(error), error.param, error.code) from None


_TAKEN = {"messages", "tools", "add_generation_prompt", "chat_template", "tokenize", "ended", "self"}
"""Names that are the conversation's own."""
