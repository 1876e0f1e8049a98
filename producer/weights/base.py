"""The version that a client published last, which the next delta is made against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rollstream.schemas import PolicyVersion, WeightsManifest

from .tensor_values import TensorValues


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """It stays in the trainer's memory: as many bytes as the weights have in the dtype in which they are sent."""

    manifest: WeightsManifest
    announcement: PolicyVersion
    tensors: Mapping[str, TensorValues]
    anchor_bytes: int
    """What the anchor of its chain has in the store."""
    chain_bytes: int
    """What the deltas from there on have, with its own."""
    needs: Mapping[str, int]
    """Every item of the store that a reader of this version needs, with its size; 0 for a manifest."""

    @property
    def version(self) -> int:
        """Its number."""
        return self.manifest.version

    @property
    def digests(self) -> dict[str, str]:
        """The sha256 of each tensor."""
        return {one.name: one.sha256 for one in self.manifest.tensors}


def needs_of(manifest: WeightsManifest) -> dict[str, int]:
    """The items of one version, without those of its base."""
    return {manifest.name: 0} | {chunk.sha256: chunk.num_bytes for chunk in manifest.chunks}
