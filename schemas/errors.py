"""All errors of Rollstream descend from `RollstreamError` and tell what is wrong, where, and what to do."""

from __future__ import annotations

from enum import Enum
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from types import NoneType
from typing import Any

from pydantic import BaseModel

from .printable import printable_lines, without_credentials

MAX_TEXT = 500


def shown(value: object) -> str:
    """`value` for an error's text, cut before it is formatted: it may be hostile and of any size."""
    if isinstance(value, str | bytes):
        value = value[:80]
    elif not isinstance(value, int | float | None) or (isinstance(value, int) and value.bit_length() > 128):
        return f"some {type(value).__name__}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def cut(text: str) -> str:
    """At most `MAX_TEXT` characters: an error is copied into every answer of a job."""
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."


class RollstreamError(Exception):
    """Base of every error raised by `schemas`, `producer` and `worker`.

    Pickle and `copy` keep its fields and notes, so that it may come from a process pool or from Ray. Its cause is lost,
    as with every exception of Python.
    """

    def __str__(self) -> str:
        """The text, safe for a terminal and without the login of a Redis URL."""
        return printable_lines(without_credentials(super().__str__()))

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuild without `__init__`, since its parameters are not the text that Python keeps in `args`."""
        fields = {name: _portable(value) for name, value in vars(self).items()}
        return _made_again, (type(self), *map(_portable, self.args)), fields


def _made_again(kind: type[RollstreamError], *args: object) -> RollstreamError:
    return kind.__new__(kind, *args)


_PLAIN = (NoneType, bool, int, float, str, bytes, PosixPath, WindowsPath, PurePosixPath, PureWindowsPath)
_CONTAINERS = (list, tuple, set, frozenset)
_DEEPEST = 8


def _portable(value: object, depth: int = 0) -> object:
    """`value`, with a text in place of what might not come out of pickle: that would end a whole process pool.

    A closed set travels: plain values and containers of them, messages, codes and errors of ours, and Python's errors.
    """
    kind = type(value)
    if kind in _PLAIN or _is_ours(value):
        return value
    if depth < _DEEPEST:
        if isinstance(value, _CONTAINERS) and kind in _CONTAINERS:
            return kind(_portable(item, depth + 1) for item in value)
        if isinstance(value, dict) and kind is dict:
            return {_portable(key, depth + 1): _portable(item, depth + 1) for key, item in value.items()}
        if isinstance(value, Exception) and kind.__module__ == "builtins":
            return kind(*(_portable(item, depth + 1) for item in value.args))
    return shown(value)


def _is_ours(value: object) -> bool:
    """Whether it is of a kind that this package defines so that it travels."""
    kind = type(value)
    return isinstance(value, BaseModel | Enum | RollstreamError) and kind.__module__.startswith("rollstream.")


class SchemaError(RollstreamError):
    """Base of the errors that `schemas` raises."""


class ConfigError(SchemaError):
    """Raised when a generation config has an unknown name or a value out of bounds.

    `field` is the offending name, `value` what was given; the text names the bound or the nearest known name.
    """

    def __init__(self, field: str, problem: str, value: object = None) -> None:
        field = field[:100]
        super().__init__(cut(f"generation config: {field}: {problem}"))
        self.field = field
        self.problem = problem
        self.value = value


class OptionError(SchemaError):
    """Raised when an object of options, such as `Activate`, has an unknown name or a value out of bounds.

    `what` is the object's class, `field` the offending name, `value` what was given.
    """

    def __init__(self, what: str, field: str, problem: str, value: object = None) -> None:
        super().__init__(cut(f"{what}: {field[:100]}: {problem}"))
        self.what = what
        self.field = field[:100]
        self.problem = problem
        self.value = value


class NameRefusedError(SchemaError):
    """Raised when a policy, batch or adapter name has characters that a Redis key or a folder must not have."""

    def __init__(self, what: str, value: object, rule: str) -> None:
        super().__init__(f"{what} {shown(value)} is not usable: {rule}")
        self.what = what
        self.value = value


class WireError(SchemaError):
    """Raised when bytes are not a valid message. `data` keeps them, `what` names the message that was expected."""

    def __init__(self, what: str, problem: str, data: bytes) -> None:
        super().__init__(cut(f"{what}: {problem} ({len(data)} bytes)"))
        self.what = what
        self.problem = problem
        self.data = data


class WireVersionError(WireError):
    """Raised when a message has a wire version (`version`) that this release does not read."""

    def __init__(self, what: str, version: object, expected: int, data: bytes) -> None:
        super().__init__(
            what, f"wire version {shown(version)}, this release reads {expected}: upgrade the older side", data
        )
        self.version = version
