"""Bytes to a frozen message and back. An error of `decode` keeps the bytes that cannot be read."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

import msgpack
from pydantic import ValidationError

from ..errors import ConfigError, NameRefusedError, OptionError, WireError, WireVersionError, shown
from .messages import Message
from .sizes import limits

M = TypeVar("M", bound=Message)


def encode(message: Message) -> bytes:
    """One msgpack map of the fields that differ from their defaults, so that an unused new field is not sent.

    Raises `WireError` if it is larger than a reader would take.
    """
    told = message.model_dump(mode="python", exclude_defaults=True)
    data: bytes = msgpack.packb({"v": message.v, "kind": _kind_of(type(message)), **told})
    if len(data) <= limits.MAX_ITEMS:  # no message of ours is deep, and an item is at least a byte
        return data
    try:
        limits.check(data)
    except limits.LimitExceeded as error:
        raise WireError(type(message).__name__, f"{error}: submit fewer prompts per job", data) from None
    return data


def decode(data: bytes, *models: type[M]) -> M:
    """The message in `data`, one of `models`; its `kind` says which.

    Raises `WireError` (with `data` in it) for anything but exactly such a message, `WireVersionError` for
    another wire version, `ConfigError` for a generation config with an unknown name or a value out of bounds.
    """
    what = " or ".join(model.__name__ for model in models)
    fields = _unpack(what, data)
    version = fields.get("v")
    if type(version) is not int or version != Message.VERSION:
        raise WireVersionError(what, version, Message.VERSION, data)
    kind = fields.get("kind")
    model = next((m for m in models if _kind_of(m) == kind), None)
    if model is None:
        raise WireError(what, f"kind {shown(kind)} is none of the expected", data)
    try:
        return model.model_validate(fields)
    except ConfigError:
        raise
    except ValidationError as error:
        raise WireError(what, _first_problem(error), data) from None
    except (NameRefusedError, OptionError) as error:
        raise WireError(what, str(error), data) from None


def _unpack(what: str, data: bytes) -> dict[str, Any]:
    try:
        limits.check(data)
        fields = msgpack.unpackb(data, use_list=False, strict_map_key=True)
    except (ValueError, TypeError) as error:  # LimitExceeded, bad UTF-8, unhashable or non-string keys
        raise WireError(what, f"not a readable msgpack message: {error}", data) from None
    if not isinstance(fields, dict):
        raise WireError(what, f"expected a map, got {type(fields).__name__}", data)
    return fields


@cache
def _kind_of(model: type[Message]) -> Any:
    return model.model_fields["kind"].default


def _first_problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(str(part) for part in first['loc']) or 'message'}: {first['msg']}"
