"""Whether a version is sent as a delta, and against which base. Pure."""

from __future__ import annotations

from typing import Literal

from rollstream.schemas.errors import shown
from rollstream.schemas.wire.weights import MAX_CHAIN

from ..policies.errors import PolicyVersionError
from .base import Base
from .encoding import Described, Tensors, same_layout

AUTO: Literal["auto"] = "auto"
_RULE = (
    'leave it at "auto" to send what is needed: a delta stands on a version in the store, never on the boot model or a '
    "folder"
)
BaseChoice = int | Literal["auto"] | None
"""`auto`: a delta on the version that this client published last, or all weights where that is better; None: all
weights; a number: a delta on that version."""


def check_base(version: int, wanted: object) -> None:
    """Raises `PolicyVersionError` for what is no base."""
    if wanted is None or wanted == AUTO or (type(wanted) is int and 1 <= wanted < version):
        return
    problem = (
        f'base={shown(wanted)}: give "auto", None for all weights, or the number of an older version, the one that '
        "this client sent last through the weight store"
    )
    raise PolicyVersionError(version, problem)


def comparable(version: int, wanted: BaseChoice, held: Base | None, tensors: Tensors) -> Base | None:
    """The base that the tensors can be compared with; None for an anchor.

    Raises `PolicyVersionError` if a base was asked for by number and it is not that one, or has other tensors.
    """
    if wanted is None:
        return None
    problem = _problem(held, tensors)
    if held is not None and not problem:
        if wanted == AUTO:
            return held if held.version < version else None
        if wanted == held.version:
            return held
        problem = f"this client holds the tensors of version {held.version}"
    if wanted == AUTO:
        return None
    raise PolicyVersionError(version, f"base={wanted}: {problem}; {_RULE}")


def is_worth_it(wanted: BaseChoice, base: Base, what: Described, anchor_every: int) -> bool:
    """Whether a delta on `base` is to be sent, and not an anchor."""
    if base.manifest.chain >= MAX_CHAIN:
        return False
    if wanted != AUTO:
        return True
    if base.manifest.chain + 1 >= anchor_every or what.delta_bytes >= what.full_bytes:
        return False
    return base.chain_bytes + what.delta_bytes < base.anchor_bytes


def _problem(held: Base | None, tensors: Tensors) -> str:
    if held is None:
        return "this client has sent no version through the weight store yet"
    if not same_layout(held.tensors, tensors):
        return f"the tensors of version {held.version} have other names, dtypes or shapes"
    return ""
