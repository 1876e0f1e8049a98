"""Types of a config's options, with what else than their own type is taken for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field


def as_tuple(value: object) -> object:
    """A list as a tuple, and one id or text as a tuple of one."""
    if isinstance(value, list):
        return tuple(value)
    return (value,) if isinstance(value, int | str) and not isinstance(value, bool) else value


def as_bias(value: object) -> object:
    """Pairs as a mapping: messages carry pairs, because msgpack maps with integer keys are refused."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list | tuple) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value):
        return {pair[0]: pair[1] for pair in value}
    return value


Finite = Annotated[float, Field(allow_inf_nan=False)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Penalty = Annotated[Finite, Field(ge=-2, le=2)]
Bias = Annotated[Finite, Field(ge=-100, le=100)]
TokenIds = Annotated[tuple[TokenId, ...], BeforeValidator(as_tuple), Field(max_length=4096)]
Text = Annotated[str, Field(min_length=1, max_length=256)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(as_tuple), Field(max_length=64)]
