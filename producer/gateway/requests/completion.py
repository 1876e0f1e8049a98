"""POST /v1/completions, read from its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import bad
from .asked import CompletionAsked, Shown, Terms
from .common import caller_of, check_count, check_text, model_of, shown_logprobs, stream_of, unused
from .parameters import Parameters
from .refused import OF_COMPLETIONS
from .sampling import MOST_LOGPROBS, config_of, guided_by, most_tokens

MOST_PROMPTS = 256
_LARGEST_ID = 2**31


def completion_asked(told: Mapping[str, Any], headers: Mapping[str, str], terms: Terms) -> CompletionAsked:
    """What the request asks for. Raises `ApiError` with the parameter's name; `headers` in lower case."""
    asked = Parameters(told)
    model, adapter = model_of(asked, terms.policy)
    logprobs = asked.take("logprobs")
    logprobs = None if logprobs is None else shown_logprobs(logprobs, MOST_LOGPROBS)
    most = most_tokens({"max_tokens": asked.integer("max_tokens", 1)}, terms.max_tokens)
    config = config_of(asked, most=most, logprobs=logprobs)
    found = CompletionAsked(
        model=model,
        adapter=adapter,
        config=config,
        shown=Shown(
            logprobs=logprobs,
            token_ids=asked.boolean("return_token_ids"),
            special_tokens=not asked.boolean("skip_special_tokens", True),
        ),
        stream=stream_of(asked, config),
        caller=caller_of(asked, headers),
        user=unused(asked),
        words={"guided": guided_by(told)},
        prompts=_prompts(asked.take("prompt")),
        special_tokens=asked.boolean("add_special_tokens", True),
    )
    for i, one in enumerate(found.prompts):
        check_text(f"prompt[{i}]", len(one) if isinstance(one, str) else 0, terms)
    check_count(len(found.prompts), config, terms)
    if found.shown.special_tokens and config.stop_strings:
        why = "with 'stop' the text is the worker's, which has no special tokens: ask for return_token_ids"
        raise bad("skip_special_tokens", why, "unsupported_parameter")
    asked.only("echo", False, why="only what was sampled is sent: put the prompt before it yourself")
    asked.only("best_of", 1, config.num_return_sequences, why="ask for more with 'n' and choose among them")
    if found.caller.session is not None:
        raise bad("session", "only conversations have one: /v1/chat/completions", "unsupported_parameter")
    asked.end(OF_COMPLETIONS)
    return found


def _prompts(value: Any) -> tuple[str | tuple[int, ...], ...]:
    if isinstance(value, str) or _is_ids(value):
        value = [value]
    if not isinstance(value, list) or not value:
        raise bad("prompt", "give a text, token ids, or a list of either", "invalid_type")
    if len(value) > MOST_PROMPTS:
        raise bad("prompt", f"give at most {MOST_PROMPTS} prompts, not {len(value)}", "invalid_value")
    return tuple(_prompt(one, i) for i, one in enumerate(value))


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) is int for one in value)


def _prompt(value: Any, i: int) -> str | tuple[int, ...]:
    if isinstance(value, str) and value:
        return value
    if not _is_ids(value):
        raise bad(f"prompt[{i}]", "give a text or token ids, at least one", "invalid_type")
    if not 0 <= min(value) <= max(value) < _LARGEST_ID:
        raise bad(f"prompt[{i}]", "token ids are numbers from 0 on", "invalid_value")
    return tuple(value)
