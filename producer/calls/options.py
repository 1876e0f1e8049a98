"""Keyword options that several calls share: declared once as a `TypedDict`, shown by `help`, checked for typos."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, ForwardRef, TypeVar

from rollstream.schemas import GenerationConfig
from rollstream.schemas.environment import nearest

from ..errors import ArgumentError

C = TypeVar("C", bound=Callable[..., Any])


def check_names(given: Mapping[str, object], known: Collection[str]) -> None:
    """Raises `ArgumentError` for an option that the call does not have; the error suggests the nearest name."""
    for name, value in given.items():
        if name not in known:
            raise ArgumentError(name, value, _meant(name, known))


def _meant(name: str, known: Collection[str]) -> str:
    if name in GenerationConfig.model_fields:
        return f"it is an option of sampling: write config=GenerationConfig({name}=...)"
    if near := nearest(name, known):
        return f"there is no such option; do you mean {near}?"
    return f"there is no such option; there are {', '.join(sorted(known))}"


def _plain(kind: Any) -> Any:
    """A type as `help` shows it; one in quotes is its text."""
    return kind.__forward_arg__ if isinstance(kind, ForwardRef) else kind


def spelled_out(options: type, defaults: Mapping[str, object], *more: type) -> Callable[[C], C]:
    """For a call with `**options`: `help` and `inspect.signature` show each option with its type, default and meaning.

    The meaning is in the docstrings of `options` and `more`, which stand below the call's own.
    """

    def written(call: C) -> C:
        plain = inspect.signature(call)
        fixed = [one for one in plain.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        named = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=_plain(kind))
            for name, kind in options.__annotations__.items()
        ]
        texts = [inspect.getdoc(one) or "" for one in (call, *more, options)]
        vars(call)["__signature__"] = plain.replace(parameters=[*fixed, *named])
        call.__doc__ = "\n\n".join(text for text in texts if text)
        return call

    return written
