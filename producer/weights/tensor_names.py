"""Names as Hugging Face has them: without what torch.compile, FSDP and other wrappers put in between. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from rollstream.schemas.errors import shown
from rollstream.schemas.weights.checkpoint_rules import wrapped
from rollstream.schemas.weights.tensor_table import MAX_NAME

from ..policies.errors import PolicyVersionError

_INSERTED = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_OUTERMOST = "module."
"""DDP and DeepSpeed begin all names with it."""

T = TypeVar("T")


def plain_names(version: int, tensors: Mapping[str, T]) -> dict[str, T]:
    """The tensors by the model's own names.

    Raises `PolicyVersionError` for what is no name, for two tensors of one name, and for an adapter's tensors.
    """
    found: dict[str, T] = {}
    for given, value in tensors.items():
        name = _plain(version, given)
        if name in found:
            raise PolicyVersionError(version, f"two tensors are both {name} once the names of wrappers are left out")
        found[name] = value
    if found and all(name.startswith(_OUTERMOST) for name in found):
        found = {name.removeprefix(_OUTERMOST): value for name, value in found.items()}
    if problem := wrapped(found):
        raise PolicyVersionError(version, problem)
    return found


def _plain(version: int, given: object) -> str:
    if not isinstance(given, str):
        raise PolicyVersionError(version, f"a tensor's name is a text, not {shown(given)}: give model.state_dict()")
    name = ".".join(part for part in given.split(".") if part not in _INSERTED)
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise PolicyVersionError(version, f"tensor {shown(given)}: a name has 1 to {MAX_NAME} printable characters")
    return name
