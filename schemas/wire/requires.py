"""Fields of a message that its reader must know: a reader ignores unknown fields, and must not ignore these.

A field that changes what is sampled, served or proven adds its name. A reader refuses a message with a name that is not
`KNOWN`: it would, for example, sample without the images, or serve a version without its proof.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import Field

from ..generation.generation_config import NEEDED

Requirement = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Requires = Annotated[tuple[Requirement, ...], Field(max_length=16)]

SPLIT = "split"
"""The job has some samples of its groups: who does not know that would sample all of them."""
FIRST_GROUPS = "first_groups"
"""The batch is complete with fewer groups than it has: who does not know that would not say which are enough."""
IMAGES = "images"
"""The prompts have images: who does not know that would sample without them."""
CONTINUE_OF = "continue_of"
"""Prompts are what follows an earlier turn: who does not know that would sample from the new ids alone."""

KNOWN: frozenset[str] = frozenset(
    {"activate", CONTINUE_OF, FIRST_GROUPS, IMAGES, "nccl", "probe", SPLIT, "store", *NEEDED}
)
"""The names that this release knows, for jobs and policy versions."""


def unknown_names(requires: Iterable[str]) -> str:
    """The names that this release does not know, for an error's text; empty if it knows all."""
    return ", ".join(name for name in requires if name not in KNOWN)
