"""Options that a user gives as an object and that travel in a message."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator

from ..errors import OptionError, shown


class Options(BaseModel):
    """One typed error names what is wrong with it. A name that a newer release sends is ignored, a misspelt one not."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", hide_input_in_errors=True)

    if not TYPE_CHECKING:  # type checkers go by the fields

        def __new__(cls, **values: object) -> Self:
            """Refuse names that there are not: only who makes one in Python comes by here, no message does."""
            for name in values.keys() - cls.model_fields.keys():
                raise OptionError(cls.__name__, name, f"unknown name; there are {', '.join(cls.model_fields)}")
            return super().__new__(cls)

    @model_validator(mode="wrap")
    @classmethod
    def _one_error_names_the_field(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            given = first["input"]
            field = ".".join(str(part) for part in first["loc"]) or "options"
            problem = "is required" if first["type"] == "missing" else f"{first['msg']}, got {shown(given)}"
            raise OptionError(cls.__name__, field, problem, given) from None
