"""What a file of tensors holds besides them: a model of pydantic as JSON, with the errors of failed rows."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from rollstream.schemas import GroupError, SchemaError, decode, encode
from rollstream.schemas.wire.fields import Index

from .errors import TensorFileError

if TYPE_CHECKING:
    import torch


class Rest(BaseModel):
    """The fields that are no tensors."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", hide_input_in_errors=True)

    errors: tuple[tuple[Index, str], ...]
    """Number and message, in base64."""


R = TypeVar("R", bound=Rest)


def saved_errors(errors: Mapping[int, GroupError]) -> tuple[tuple[int, str], ...]:
    """For `Rest.errors`."""
    return tuple((number, b64encode(encode(error)).decode()) for number, error in errors.items())


def read_rest(path: Path, text: bytes, kind: type[R]) -> tuple[R, dict[int, GroupError]]:
    """Raises `TensorFileError`."""
    try:
        rest = kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise TensorFileError(path, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except SchemaError as error:  # of a name's validator, which names it
        raise TensorFileError(path, str(error)) from None
    try:
        return rest, {number: decode(b64decode(error, validate=True), GroupError) for number, error in rest.errors}
    except (SchemaError, ValueError) as error:
        raise TensorFileError(path, f"errors: {error}") from None


def unfit_bounds(tensors: Mapping[str, torch.Tensor], bounds: Mapping[str, tuple[int, int]]) -> str | None:
    """What is wrong with a tensor that has a number outside of its bounds."""
    for name, (least, most) in bounds.items():
        tensor = tensors.get(name)
        if tensor is not None and tensor.numel() and not least <= int(tensor.min()) <= int(tensor.max()) <= most:
            found = f"from {int(tensor.min())} to {int(tensor.max())}"
            return f"{name}: {found}, which must lie within {least} and {most}"
    return None
