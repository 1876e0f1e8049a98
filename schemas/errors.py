"""Every error that Rollstream raises descends from `RollstreamError` and says what, where and what to do."""

from __future__ import annotations

import pickle
from typing import Any

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

    It comes back whole from pickle and from `copy`, with its fields and notes, so that it may cross from a process of a
    pool or from Ray. Its cause stays behind, as with every exception of Python.
    """

    def __str__(self) -> str:
        """Safe for a terminal and without a Redis URL's login, wherever the parts of the text are from."""
        return printable_lines(without_credentials(super().__str__()))

    def __reduce__(self) -> tuple[Any, ...]:
        """Made again without `__init__`, whose parameters are not the text that Python keeps as `args`."""
        fields = {name: _portable(value) for name, value in vars(self).items()}
        return _made_again, (type(self), *map(_portable, self.args)), fields


def _made_again(kind: type[RollstreamError], *args: object) -> RollstreamError:
    return kind.__new__(kind, *args)


def _portable(value: object) -> object:
    """`value`, or its text where it would not come back: what cannot be unpickled ends a whole process pool."""
    try:
        pickle.loads(pickle.dumps(value))  # noqa: S301 - what this process has just written
    except Exception:  # noqa: BLE001 - a foreign value's pickling may raise anything; its text is what then travels
        return shown(value)
    return value


class SchemaError(RollstreamError):
    """Base of what `schemas` raises."""


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


class NameRefusedError(SchemaError):
    """Raised when a policy, batch or adapter name holds characters that a Redis key or a folder must not hold."""

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
    """Raised when a message carries a wire version that this release does not read; `version` is what it carries."""

    def __init__(self, what: str, version: object, expected: int, data: bytes) -> None:
        super().__init__(
            what, f"wire version {shown(version)}, this release reads {expected}: upgrade the older side", data
        )
        self.version = version
