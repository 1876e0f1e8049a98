"""A version's tensors into the weight store, then its announcement. The client keeps them as the next base."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Self

from rollstream.schemas import Keys, PolicyVersion, WeightsManifest, encode
from rollstream.schemas.weights.tensor_table import pack_table
from rollstream.schemas.wire.policies import VersionSource
from rollstream.schemas.wire.weights import pack_chunks
from rollstream.transport.weights import StoreProblem, WeightStore, WeightStoreError, store_of

from ..policies.errors import PolicyVersionError
from ..policies.publish_policy import weights_of
from ..progress import byte_bar
from ..redis_io.connection import Connection
from .base import Base, needs_of
from .choice import AUTO, BaseChoice, comparable, is_worth_it
from .encoding import Described, described, encoded
from .garbage import Garbage
from .kept import keep_stored
from .store_options import StoreOptions
from .tensor_values import TensorValues
from .upload import missing, upload_chunks

_ROUNDS = 3
"""How often a version is written again whose items the store has lost meanwhile."""

Announce = Callable[[PolicyVersion], Awaitable[PolicyVersion]]
Tensors = dict[str, TensorValues]

log = logging.getLogger("rollstream")


class WeightsPublisher:
    """One client's way to the weight store.

    `_held` changes in `publish` alone, after the announcement; its callers hold `turn`, and `keep` takes it.
    """

    def __init__(self, *, connection: Connection, keys: Keys, options: StoreOptions) -> None:
        self._store = store_of(options.place, keys, connection.call, quota_bytes=options.quota_bytes)
        self._options = options
        self._garbage = Garbage(connection=connection, keys=keys, store=self._store, options=options)
        self._held: Base | None = None
        self.turn = asyncio.Lock()
        """Held by the one publish that runs: a version is made against the one before it."""

    @classmethod
    def of(cls, connection: Connection, keys: Keys, weights: object) -> Self | None:
        """A publisher for what a client was given as `weights=`; None for None.

        Raises `ArgumentError`, `WeightStoreError`.
        """
        return None if weights is None else cls(connection=connection, keys=keys, options=StoreOptions.of(weights))

    @property
    def store(self) -> WeightStore:
        """Where the weights go."""
        return self._store

    async def publish(
        self,
        version: int,
        tensors: Tensors,
        wanted: BaseChoice,
        announce: Announce,
        *,
        config: bytes = b"",
        progress: bool,
    ) -> PolicyVersion:
        """Write what the store lacks, then `announce`. Returns what is announced; with a `config` it is an adapter.

        When it announces, all that a worker needs is in the store. Raises `WeightStoreError`, `PolicyVersionError`,
        and what `announce` raises.
        """
        base = comparable(version, wanted, self._held, tensors)
        what = await self._described(tensors, base, config)
        if (again := await self._published_before(version, what)) is not None:
            return await announce(again.announcement)
        if base is not None and not is_worth_it(wanted, base, what, self._options.anchor_every):
            base = None
        published = await self._written(version, what, tensors, base, wanted, progress=progress)
        announced = await announce(published.announcement)
        self._held = replace(published, announcement=announced)
        await self._garbage.collect(published)
        return announced

    async def keep(self, version: int, older: PolicyVersion) -> None:
        """See to it that all of `older` is in the store, whose weights are announced again, as `version`.

        Raises `PolicyVersionError`, `WeightStoreError`.
        """
        async with self.turn:  # what runs may be removing old versions
            await keep_stored(self._store, version, older)

    async def _described(self, tensors: Tensors, base: Base | None, config: bytes) -> Described:
        if base is None:
            return await asyncio.to_thread(described, tensors, None, {}, config)
        return await asyncio.to_thread(described, tensors, base.tensors, base.digests, config)

    async def _published_before(self, version: int, what: Described) -> Base | None:
        """What this client holds, if it is the same version with the same tensors, and still in the store."""
        held = self._held
        if held is None or held.version != version or held.manifest.sha256 != what.sha256:
            return None
        return None if await missing(self._store, held.needs) else held

    async def _written(
        self,
        version: int,
        what: Described,
        tensors: Tensors,
        base: Base | None,
        wanted: BaseChoice,
        *,
        progress: bool,
    ) -> Base:
        """The version in the store: whole, with the chain that it stands on."""
        gone: list[str] = []
        for _ in range(_ROUNDS):
            if base is not None and (lost := await missing(self._store, base.needs)):
                if wanted != AUTO:
                    problem = f"base={base.version}: {len(lost)} of its items are no more in {self._store.where}"
                    raise PolicyVersionError(version, f'{problem}; leave it at "auto" to send all weights')
                base = None
            await self._make_room(what, base)
            published = await self._write_pressed(version, what, tensors, base, progress=progress)
            gone = await missing(self._store, published.needs)
            if not gone:
                return published
        problem = f"{len(gone)} items were gone once they were written, {_ROUNDS} times"
        raise WeightStoreError(
            f"publish version {version}", self._store.where, problem, StoreProblem.BROKEN, "see what else removes them"
        )

    async def _make_room(self, what: Described, base: Base | None) -> None:
        """Raises `WeightStoreError` before anything is written that cannot all be written. zstd may need less."""
        if self._options.compression != "none":
            return
        needed = what.full_bytes if base is None else what.delta_bytes
        room = await self._store.room()
        if room is not None and room < needed:
            await self._garbage.collect(self._held, is_pressed=True)
            room = await self._store.room()
        if room is not None and room < needed:
            problem = f"this version needs about {needed} bytes, and {room} are left"
            advice = "raise the quota (StoreOptions(quota_bytes=...)) and Redis' maxmemory, or use a folder or a URL"
            raise WeightStoreError("publish", self._store.where, problem, StoreProblem.FULL, advice)

    async def _write_pressed(
        self, version: int, what: Described, tensors: Tensors, base: Base | None, *, progress: bool
    ) -> Base:
        """`_write`; where the store turns out to be full, once more without old versions.

        How many bytes zstd makes is known only then.
        """
        try:
            return await self._write(version, what, tensors, base, progress=progress)
        except WeightStoreError as error:
            if error.reason is not StoreProblem.FULL or self._options.compression == "none":
                raise
        await self._garbage.collect(self._held, is_pressed=True)
        return await self._write(version, what, tensors, base, progress=progress)

    async def _write(
        self, version: int, what: Described, tensors: Tensors, base: Base | None, *, progress: bool
    ) -> Base:
        compression, chunk_bytes = self._options.compression, await self._store.chunk_bytes()
        made = encoded(what, tensors, None if base is None else base.tensors, chunk_bytes)
        size = what.full_bytes if base is None else what.delta_bytes
        with byte_bar(f"version {version}", size, shown=progress) as advanced:
            chunks, written = await upload_chunks(self._store, made, compression, advanced)
        manifest = WeightsManifest(
            version=version,
            sha256=what.sha256,
            table=await asyncio.to_thread(pack_table, what.entries),
            packed_chunks=pack_chunks(chunks),
            compression=compression,
            base=None if base is None else base.version,
            base_sha256=None if base is None else base.manifest.sha256,
            chain=0 if base is None else base.manifest.chain + 1,
            changed=sum(what.changed.values()) if base is not None else 0,
            config=what.config,
        )
        await self._store.put(manifest.name, await asyncio.to_thread(encode, manifest))
        log.info("%s", _told(manifest, what, base, written))
        source: VersionSource = "adapter" if what.config else "checkpoint"
        announcement = weights_of(version, source, manifest.name, manifest.sha256)
        return Base(
            manifest=manifest,
            announcement=announcement.model_copy(update={"transport": "store", "base": manifest.base}),
            tensors=tensors,
            anchor_bytes=manifest.num_bytes if base is None else base.anchor_bytes,
            chain_bytes=0 if base is None else base.chain_bytes + manifest.num_bytes,
            needs={**(base.needs if base is not None else {}), **needs_of(manifest)},
        )


def _told(manifest: WeightsManifest, what: Described, base: Base | None, written: int) -> str:
    """What was sent, in a sentence."""
    head = f"policy version {manifest.version}: {manifest.num_bytes} bytes in {len(manifest.chunks)} chunks"
    if base is None:
        return f"{head}, {written} of them written: all {what.elements} elements of {len(what.entries)} tensors"
    share = 100 * manifest.num_bytes / max(1, base.anchor_bytes)
    changed = 100 * manifest.changed / max(1, what.elements)
    return (
        f"{head}, {written} of them written: a delta on version {base.version}, {share:.2f} % of the anchor's bytes, "
        f"{manifest.changed} of {what.elements} elements changed ({changed:.3f} %)"
    )
