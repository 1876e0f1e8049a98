"""What a message needs its reader to know: a reader drops fields that it does not know, and must not drop these.

A field that changes what is sampled, served or proven adds its name. Whoever reads a name that is not `KNOWN` refuses
the message: it would sample without the images, or serve a version without its proof.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

Requirement = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Requires = Annotated[tuple[Requirement, ...], Field(max_length=16)]

KNOWN: frozenset[str] = frozenset()
"""What this release knows, of jobs and of policy versions."""


def unknown_names(requires: Iterable[str]) -> str:
    """Those that this release does not know, for an error's text; empty where it knows all."""
    return ", ".join(name for name in requires if name not in KNOWN)
