"""The parameters of one request, each taken once; what nobody took is unknown, and refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rollstream.schemas.errors import shown

from ..errors import ApiError, bad

_MOST_PARAMETERS = 200
_NEVER = 10**18
"""No number that a parameter may have is larger."""


class Parameters:
    """A null is a parameter that was not given, as OpenAI's own clients send it."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        if len(told) > _MOST_PARAMETERS:
            raise ApiError(400, f"a request has at most {_MOST_PARAMETERS} parameters")
        self._left = {name: value for name, value in told.items() if value is not None}

    def take(self, name: str) -> Any:
        """The value as it is; None if it was not given."""
        return self._left.pop(name, None)

    def boolean(self, name: str, default: bool = False) -> bool:
        """True or false."""
        value = self.take(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise bad(name, f"give true or false, not {shown(value)}", "invalid_type")
        return value

    def integer(self, name: str, least: int, most: int = _NEVER) -> int | None:
        """An integer within bounds; None if it was not given."""
        value = self.take(name)
        if value is None:
            return None
        if type(value) is not int:
            raise bad(name, f"give an integer, not {shown(value)}", "invalid_type")
        if not least <= value <= most:
            bound = f"from {least} to {most}" if most < _NEVER else f"from {least} on"
            raise bad(name, f"give an integer {bound}, not {shown(value)}", "invalid_value")
        return value

    def text(self, name: str, most: int) -> str | None:
        """A text of so many characters at most; None if it was not given."""
        value = self.take(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise bad(name, f"give a text, not {shown(value)}", "invalid_type")
        if len(value) > most:
            raise bad(name, f"give at most {most} characters, not {len(value)}", "invalid_value")
        return value

    def mapping(self, name: str) -> dict[str, Any] | None:
        """A JSON object; None if it was not given."""
        value = self.take(name)
        if value is not None and not isinstance(value, dict):
            raise bad(name, f"give an object, not {shown(value)}", "invalid_type")
        return value

    def only(self, name: str, *allowed: object, why: str) -> None:
        """A parameter of which only these values mean what happens here anyway."""
        value = self.take(name)
        if value is not None and not any(type(value) is type(one) and value == one for one in allowed):
            raise bad(name, why, "unsupported_parameter")

    def end(self, refused: Mapping[str, str]) -> None:
        """Everything was taken. Raises `ApiError` for the first that was not; `refused` says why, of known ones."""
        for name in self._left:
            if name in refused:
                raise bad(name[:80], refused[name], "unsupported_parameter")
            raise ApiError(400, f"unknown parameter {shown(name)}: leave it out", name[:80], "unknown_parameter")
