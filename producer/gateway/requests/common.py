"""The parameters that completions and conversations share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rollstream.schemas import GenerationConfig, NameRefusedError
from rollstream.schemas.errors import shown
from rollstream.schemas.keys import check_adapter, check_name

from ..errors import ApiError, bad
from .asked import Caller, Streamed, Terms
from .parameters import Parameters
from .sampling import check_streams

_LONGEST_NAME = 512
_LONGEST_ID = 200
SESSION_HEADER = "x-rollstream-session"
ID_HEADERS = ("idempotency-key", "x-request-id")
"""The first that is given counts: proxies add an x-request-id of their own."""


def model_of(asked: Parameters, policy: str) -> tuple[str, str | None]:
    """The model as it was written, and its adapter. Raises `ApiError` for one that is not served here."""
    model = asked.text("model", _LONGEST_NAME)
    if model is None:
        raise bad("model", f"it is required: {policy!r}, or '{policy}:name@version' for a LoRA adapter")
    name, colon, adapter = model.partition(":")
    if name != policy:
        known = f"this gateway serves {policy!r}, and its adapters as '{policy}:name@version'"
        raise ApiError(404, f"model {shown(model)} does not exist: {known}", "model", "model_not_found")
    if not colon:
        return model, None
    try:
        return model, check_adapter(adapter)
    except NameRefusedError as error:
        raise ApiError(404, f"model {shown(model)}: {error}", "model", "model_not_found") from None


def stream_of(asked: Parameters, config: GenerationConfig) -> Streamed | None:
    """Whether and how the answer is streamed. Raises `ApiError` where it cannot be."""
    wanted, told = asked.boolean("stream"), asked.mapping("stream_options")
    if not wanted:
        if told is not None:
            raise bad("stream_options", "only with stream=true", "invalid_value")
        return None
    check_streams(config)
    options = Parameters(told or {})
    usage = options.boolean("include_usage")
    options.only("include_obfuscation", False, why="nothing is added to chunks: leave it out")
    options.only("continuous_usage_stats", False, why="write include_usage, which tells it at the end")
    options.end({})
    return Streamed(usage=usage)


def check_count(prompts: int, config: GenerationConfig, terms: Terms) -> None:
    """Raises `ApiError` for more completions than one request may have."""
    n = config.num_return_sequences
    if (completions := prompts * n) > terms.max_completions:
        told = f"{prompts} prompts with n={n} are {completions} completions" if prompts > 1 else f"not {n}"
        why = f"a request has at most {terms.max_completions} completions (--max-completions): {told}"
        raise bad("n", why, "invalid_value")


def check_text(param: str, characters: int, terms: Terms) -> None:
    """Raises `ApiError` for more text than one prompt may have."""
    if characters > terms.max_characters:
        why = f"at most {terms.max_characters} characters (--max-characters), not {characters}"
        raise bad(param, why, "context_length_exceeded")


def caller_of(asked: Parameters, headers: Mapping[str, str]) -> Caller:
    """The request's id and session. `headers`: in lower case; a session may stand in the body too."""
    in_header, in_body = headers.get(SESSION_HEADER), asked.take("session")
    if in_header is not None and in_body is not None and in_header != in_body:
        raise bad("session", f"another one stands in the header {SESSION_HEADER}", "invalid_value")
    session = in_body if in_header is None else in_header
    return Caller(request_id=request_id_of(headers), session=None if session is None else _session(session))


def request_id_of(headers: Mapping[str, str]) -> str | None:
    """The id that a client gave its request; None if it gave none."""
    for name in ID_HEADERS:
        given = headers.get(name)
        if given is None:
            continue
        if not (1 <= len(given) <= _LONGEST_ID and given.isascii() and given.isprintable() and " " not in given):
            raise bad(name, f"1 to {_LONGEST_ID} printable ASCII characters without blanks", "invalid_value")
        return given
    return None


def _session(value: object) -> str:
    try:
        return check_name("session", value)
    except NameRefusedError as error:
        raise ApiError(400, str(error), "session", "invalid_value") from None


def unused(asked: Parameters) -> str:
    """Take what is allowed and changes nothing here. Returns `user`, which stands in the gateway's log."""
    asked.only("store", False, why="answers are kept by their request id and session: leave it out")
    asked.only("service_tier", "auto", "default", why="there is one: leave it out")
    return asked.text("user", _LONGEST_NAME) or ""


def shown_logprobs(value: Any, most: int) -> int:
    """How many of the likeliest ids come with each token."""
    if type(value) is not int or not 0 <= value <= most:
        raise bad("logprobs", f"give an integer from 0 to {most}, not {shown(value)}", "invalid_value")
    return value
