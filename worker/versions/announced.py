"""What an entry of the versions stream says, readable or not. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from rollstream.schemas import PolicyVersion, SchemaError, decode, encode
from rollstream.schemas.entry_id import MAX_VERSION, EntryId
from rollstream.schemas.wire.entry_fields import PAYLOAD
from rollstream.schemas.wire.policies import Activate, Activation, Transport, VersionSource
from rollstream.schemas.wire.proofs.probe import Probe
from rollstream.schemas.wire.requires import unknown_names

from ..weights.contents import Contents


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """One version, by the id of its entry. Two are equal if they have the same number, content and probe."""

    version: int
    source: VersionSource | Literal[""] = ""
    """Empty for what no stream announces, and where the entry cannot be read."""
    location: str = ""
    sha256: str = ""
    transport: Transport = "folder"
    base: int | None = None
    probe: Probe | None = field(default=None, compare=False)
    probe_sha256: str = ""
    """Digest of the probe; empty if there is none."""
    activate: Activate = field(default=Activate(), compare=False)
    problem: str = ""
    """Why it cannot be read, or what it needs that this worker does not know; empty when it may be served."""

    @property
    def is_at_once(self) -> bool:
        """Whether its announcement activates it."""
        return self.activate.when == "at_once"

    def content(self, contents: Contents) -> str | None:
        """The digest of what it announces; None if it cannot be read."""
        return contents.of_announced(self.sha256, is_adapter=self.source == "adapter")

    def is_like(self, served: Announced) -> bool:
        """Whether `served` is what it announces, and has passed its probe. Without a probe nothing is asked."""
        return self == served or (not self.probe_sha256 and self == replace(served, probe_sha256=""))


BOOTED = Announced(version=0)
"""The boot model, which no stream announces."""


def version_in(entry_id: bytes) -> int | None:
    """The version whose entry has this id; None for an entry that no trainer can have written."""
    found = EntryId.of(entry_id)
    return found.milliseconds if found.sequence == 0 and found.milliseconds <= MAX_VERSION else None


def announced_in(version: int, fields: Mapping[bytes, bytes]) -> Announced:
    """What the entry of this version announces."""
    try:
        found = decode(fields.get(PAYLOAD, b""), PolicyVersion)
    except SchemaError as error:
        return Announced(version=version, problem=f"its announcement cannot be read: {error}")
    if found.version != version:
        return Announced(version=version, problem=f"its announcement is that of version {found.version}")
    names = unknown_names(found.requires)
    problem = f"it requires {names}, which this worker does not know: upgrade the worker" if names else ""
    return Announced(
        version=version,
        source=found.source,
        location=found.location,
        sha256=found.sha256,
        transport=found.transport,
        base=found.base,
        probe=found.probe,
        probe_sha256="" if found.probe is None else hashlib.sha256(encode(found.probe)).hexdigest(),
        activate=found.activate,
        problem=problem,
    )


def lost(version: int) -> Announced:
    """An activated version whose announcement the versions stream has no more."""
    problem = "it was activated, but its announcement is gone from the versions stream: publish its weights again"
    return Announced(version=version, problem=problem)


def activation_in(version: int, fields: Mapping[bytes, bytes]) -> Activation | None:
    """What the entry of this version in the activations stream says; None if it activates no such one."""
    try:
        found = decode(fields.get(PAYLOAD, b""), Activation)
    except SchemaError:
        return None
    return found if found.version == version else None
