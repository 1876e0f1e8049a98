"""From what the cache has, or from an anchor, to an announced version: the deltas that lead there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rollstream.schemas import WeightsManifest
from rollstream.schemas.weights.compression import Compression
from rollstream.schemas.weights.tensor_digest import TensorEntry
from rollstream.schemas.wire.weights import Chunk
from rollstream.transport.weights import WeightStore, read_chain

from ..errors import NotInStoreError
from .tensor_file import same_layout
from .weights_cache import Kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """What one version changes."""

    chunks: tuple[Chunk, ...]
    compression: Compression


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """What leads to a version."""

    name: str
    table: tuple[TensorEntry, ...]
    """All tensors of the version."""
    base: Kept | None
    """Where it begins; None: with an anchor, the first of the links."""
    links: tuple[Link, ...]
    """In the order in which they are applied."""
    config: bytes = b""
    """An adapter's `adapter_config.json`; empty for a checkpoint."""

    @property
    def num_bytes(self) -> int:
        """Bytes that are fetched."""
        return sum(chunk.num_bytes for link in self.links for chunk in link.chunks)


async def find_chain(
    store: WeightStore, name: str, sha256: str, check: Callable[[WeightsManifest], None], bases: Mapping[str, Kept]
) -> Chain:
    """Read manifests back from `name` to an anchor, or to one of `bases`, which are found by their digests.

    No chunk is fetched yet, and nothing allocated: whatever the manifests say is checked here, that of the version by
    `check`. Raises `VersionRefusedError`, `WeightStoreError`, and what `check` raises.
    """
    manifests = await read_chain(store, name, bases)
    newest, oldest = manifests[-1], manifests[0]
    if newest.sha256 != sha256:
        raise NotInStoreError(f"weights {name}: the store has other weights under this name: publish an anchor")
    check(newest)
    base = None if oldest.base_sha256 is None else bases[oldest.base_sha256]
    if base is not None and not same_layout(base.tensors, newest.tensors):
        others = {digest: kept for digest, kept in bases.items() if kept is not base}
        return await find_chain(store, name, sha256, check, others)
    links = tuple(Link(chunks=one.chunks, compression=one.compression) for one in manifests)
    return Chain(name=name, table=newest.tensors, base=base, links=links, config=newest.config)
