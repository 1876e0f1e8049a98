"""Values of a request's JSON, each of the type that its place wants."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .errors import ChatRequestError

_DEEPEST = 64
"""Levels of a JSON value: a template and our own code go down by recursion."""


def mapping_at(value: object, place: str) -> Mapping[str, Any]:
    """`value`, if it is an object of JSON that is not nested too deep."""
    if not isinstance(value, dict):
        raise ChatRequestError(place, "invalid_type", "must be an object")
    if too_deep(value):
        raise ChatRequestError(place, "invalid_type", f"is nested deeper than {_DEEPEST} levels")
    return value


def rendered_at(value: object, place: str) -> Mapping[str, Any]:
    """The same for an object that a template writes out: UTF-8 can spell all texts in it."""
    value = mapping_at(value, place)
    for text in _texts_in(value):
        text_at(text, place)
    return value


def sequence_at(value: object, place: str, *, most: int) -> Sequence[Any]:
    """`value`, if it is a list of at most that many."""
    if not isinstance(value, list):
        raise ChatRequestError(place, "invalid_type", "must be a list")
    if len(value) > most:
        raise ChatRequestError(place, "too_many", f"has {len(value):,} entries, more than {most:,}")
    return value


def text_at(value: object, place: str) -> str:
    """`value`, if it is text that UTF-8 can spell: half a surrogate pair is refused."""
    if not isinstance(value, str):
        raise ChatRequestError(place, "invalid_type", "must be text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ChatRequestError(place, "invalid_text", "has half a surrogate pair, which is no character") from None
    return value


def json_object(value: object, place: str) -> Mapping[str, Any]:
    """`value`, or what it spells if it is text, if that is an object of JSON."""
    if isinstance(value, str):
        value = read_json(text_at(value, place))
    if not isinstance(value, dict):
        raise ChatRequestError(place, "invalid_json", "must be text that spells an object of JSON")
    return rendered_at(value, place)


def read_json(text: str) -> object:
    """What `text` spells; None where it spells nothing, or what no JSON has, as NaN."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None


def too_deep(value: object, left: int = _DEEPEST) -> bool:
    """Whether it has more levels than anything here goes down."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return left == 0 or any(too_deep(one, left - 1) for one in inner)
    return False


def _texts_in(value: object) -> Iterator[str]:
    """Its texts, and those of its objects' names."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in (*value, *value.values()) if isinstance(value, dict) else value:
            yield from _texts_in(one)


def _no_constant(name: str) -> None:
    raise ValueError(name)
