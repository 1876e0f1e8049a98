"""Which answer an error is. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from rollstream.schemas import ConfigError, ErrorCode, GroupError, NameRefusedError, RollstreamError, WireError
from rollstream.transport.redis.faults import fault_of

from ..errors import (
    ArgumentError,
    BatchCancelledError,
    BatchConflictError,
    ClientClosedError,
    PromptsError,
    RedisUnavailableError,
    ResultTimeoutError,
    UnknownBatchError,
    UnreadableResultError,
)
from ..queue_errors import LostJobsError, TooLargeForRedisError
from ..sessions.errors import RequestConflictError, SessionError, SessionFullError
from .errors import ApiError
from .places import without_places
from .words import THEIRS, in_words

RETRY_S = 5
DEFECT = "a defect in this gateway: its log has the traceback"
_STATUS: tuple[tuple[type[RollstreamError], int, str], ...] = (
    (RedisUnavailableError, 503, "redis_unavailable"),
    (ClientClosedError, 503, "shutting_down"),
    (BatchConflictError, 409, "request_id_conflict"),
    (RequestConflictError, 409, "request_id_conflict"),
    (SessionFullError, 409, "session_full"),
    (SessionError, 409, "session_unusable"),
    (BatchCancelledError, 409, "cancelled"),
    (ResultTimeoutError, 504, "timeout"),
    (TooLargeForRedisError, 413, "request_too_large"),
    (WireError, 413, "request_too_large"),
    (ConfigError, 400, "invalid_value"),
    (PromptsError, 400, "invalid_value"),
    (ArgumentError, 400, "invalid_value"),
    (NameRefusedError, 400, "invalid_value"),
    (UnknownBatchError, 500, "batch_lost"),
    (LostJobsError, 500, "batch_lost"),
    (UnreadableResultError, 500, "batch_unreadable"),
)
_CONFLICT = "this request id was given to a request with other content: use another one"
_TURN_CONFLICT = (
    "this request id was given to a request with other content, or its session is not kept any more: use another one"
)
_AWAY = "Redis cannot be reached from this gateway: ask again in some seconds; the gateway's log has the cause"
_REFUSES = "Redis refuses what this gateway sends: its operator finds the cause in the gateway's log"
_OF_DATA: Mapping[str, tuple[str, int]] = {
    ErrorCode.TOO_LONG: ("context_length_exceeded", 400),
    ErrorCode.UNKNOWN_ADAPTER: ("model_not_found", 404),
    ErrorCode.QUEUE_DEADLINE: ("timeout", 504),
    ErrorCode.RUN_DEADLINE: ("timeout", 504),
    ErrorCode.TURN_MISSING: ("turn_missing", 409),
    ErrorCode.CANCELLED: ("cancelled", 409),
    ErrorCode.NOT_NEEDED: ("cancelled", 409),
    ErrorCode.TOO_MANY_DELIVERIES: ("too_many_deliveries", 500),
    ErrorCode.SAMPLES_MISSING: ("samples_missing", 500),
    ErrorCode.UNREADABLE_JOB: ("unreadable_job", 500),
}


def problem_of(error: RollstreamError, batch_id: str = "") -> ApiError:
    """The answer that an error is. `batch_id`: what was queued for the request; empty if nothing was."""
    if isinstance(error, ApiError):
        return error
    known = next(((status, code) for kind, status, code in _STATUS if isinstance(error, kind)), None)
    if known is None:
        return ApiError(500, DEFECT, batch_id=batch_id)
    status, code = known
    field = str(getattr(error, "field", "")) if isinstance(error, ConfigError) else ""
    retry = RETRY_S if status == 503 else None
    return ApiError(status, _text(error), THEIRS.get(field, field) or None, code, batch_id, retry)


def _text(error: RollstreamError) -> str:
    """What a client may know of it: what is wrong and what to do, and nothing of where Redis and workers are."""
    match error:
        case BatchConflictError():
            return _CONFLICT
        case RequestConflictError():
            return _TURN_CONFLICT
        case RedisUnavailableError():
            return _AWAY if fault_of(error.__cause__).passes else _REFUSES
        case TooLargeForRedisError():
            most = f", which takes {error.limit}" if error.limit else ""
            return f"the request becomes {error.nbytes} bytes for Redis{most}: send fewer or shorter prompts at once"
        case _:
            return without_places(str(error))


def failed(error: GroupError, words: Mapping[str, str] = MappingProxyType({})) -> ApiError:
    """The answer where a worker answered with an error. `words`: see `Asked.words`."""
    code, status = _OF_DATA.get(error.code, (error.code, 400))
    param = {**THEIRS, **words}.get(error.field, error.field) if status < 500 else None
    text = without_places(in_words(error.message, words), error.worker)
    return ApiError(status, text, param, code, error.batch_id)


def late(batch_id: str, timeout_s: float, *, again: bool, is_tokenized: bool = False, lack: str = "") -> ApiError:
    """The answer where none came in time. `again`: whether the request has an id, under which it can be had later;
    `is_tokenized`: whether its text had no tokens yet; `lack`: why requests wait, if the gateway knows it.
    """
    advice = (
        "it goes on: ask again with the same request id"
        if again
        else "it was cancelled: ask again, with an Idempotency-Key if it should go on after this"
    )
    why = f"{lack}, the gateway's log has more" if lack else "`rollstream doctor` says what it waits for"
    text = f"no answer within {timeout_s:g} s; batch {batch_id!r}: {advice}; {why}"
    if not batch_id:
        cause = "its text still waits for the tokenizer" if is_tokenized else "Redis has not taken the request"
        text = f"no answer within {timeout_s:g} s: {cause}; ask again"
    return ApiError(504, text, None, "timeout", batch_id)


def ending(batch_id: str = "") -> ApiError:
    """The answer where the gateway is told to end."""
    return ApiError(503, "this gateway is ending: ask another one", None, "shutting_down", batch_id, RETRY_S)
