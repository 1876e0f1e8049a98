"""Remove from the store what no worker needs any more, after a publish.

Needed are: what this client has just published, the newest few announced, the versions that live workers serve, load or
have prepared, the one before each, the one to serve, whatever was written of late, and the chain of each of these. A
queued job asks for a version or a newer one, which the newest is. What cannot be read is never a reason to remove more.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rollstream.schemas import Keys, NameRefusedError
from rollstream.schemas.hashes.worker_report import WorkerReport
from rollstream.transport.weights import Stored, StoreProblem, WeightStore, WeightStoreError, is_chunk, read_manifest

from ..errors import ProducerError
from ..policies.activation import newest_version
from ..policies.live_workers import live_reports
from ..policies.versions_stream import RECENT, announced_versions, read_version
from ..redis_io.connection import Connection
from .base import Base, needs_of
from .store_options import StoreOptions

_PRESSED_GRACE_S = 60.0

log = logging.getLogger("rollstream")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What a manifest says that decides what stays."""

    num_bytes: int
    """The manifest's own: another trainer may have replaced it by one with other chunks."""
    base: str | None
    needs: frozenset[str]


class Garbage:
    """`_known` grows as manifests are read; those that are gone are forgotten."""

    def __init__(self, *, connection: Connection, keys: Keys, store: WeightStore, options: StoreOptions) -> None:
        self._connection = connection
        self._keys = keys
        self._store = store
        self._options = options
        self._known: dict[str, _Known] = {}

    async def collect(self, published: Base | None, *, is_pressed: bool = False) -> None:
        """Never raises for a store or a Redis that is away: the publish is done, and the next one tries again.

        `is_pressed`: the store is full, so that only what was written within a minute stays for its age.
        """
        grace_s = min(self._options.grace_s, _PRESSED_GRACE_S) if is_pressed else self._options.grace_s
        try:
            await self._collect(published, grace_s)
        except (WeightStoreError, ProducerError, NameRefusedError) as error:
            log.warning("the weight store was not cleared of old versions: %s", error)

    async def _collect(self, published: Base | None, grace_s: float) -> None:
        items = await self._store.items()
        young = _young(items, grace_s)
        names = await self._wanted({one.name for one in items if not is_chunk(one.name)})
        names |= {name for name in young if not is_chunk(name)}
        if published is not None:
            names.add(published.manifest.name)
        needed = await self._chains(names, {one.name: one.num_bytes for one in items})
        await self._store.renew(sorted(needed.intersection(one.name for one in items)))
        old = [one.name for one in items if one.name not in needed and one.name not in young]
        # Manifests first: one that is found should have its chunks.
        await self._store.delete(sorted(old, key=is_chunk))
        self._known = {name: known for name, known in self._known.items() if name not in old}

    async def _wanted(self, stored: Collection[str]) -> set[str]:
        """Names of manifests that are announced or served. A version may be announced with an older one's content."""
        keep = self._options.keep
        recent = await announced_versions(self._connection, self._keys, max(keep, RECENT))
        reports = await self._connection.call("read the workers", lambda redis: live_reports(redis, self._keys))
        served = set(_versions_of(reports.values()))
        known = sorted({one.version for one in recent} | set(map(_version, stored)))
        before = {known[at - 1] for at in (bisect_left(known, version) for version in served) if at > 0}
        active = await newest_version(self._connection, self._keys)  # workers that start load it
        versions = served | before | {active} | {one.version for one in recent[:keep]}
        announced = {one.version: one for one in recent}
        for version in versions - announced.keys():
            if (found := await read_version(self._connection, self._keys, version)) is not None:
                announced[version] = found
        said = (announced[version].announcement for version in versions & announced.keys())
        locations = {one.location for one in said if one is not None and one.transport != "folder"}
        return {name for name in stored if _version(name) in versions or name in locations}

    async def _chains(self, names: Iterable[str], sizes: Mapping[str, int]) -> set[str]:
        """All items that the manifests of these names need, with their chains."""
        needed: set[str] = set()
        ahead = list(names)
        while ahead:
            name = ahead.pop()
            if name in needed:
                continue
            needed.add(name)
            known = await self._look(name, sizes.get(name, 0))
            if known is not None:
                needed |= known.needs
                ahead += [known.base] if known.base is not None and known.base not in needed else []
        return needed

    async def _look(self, name: str, num_bytes: int) -> _Known | None:
        if name not in self._known or self._known[name].num_bytes != num_bytes:
            try:
                manifest = await read_manifest(self._store, name)
            except WeightStoreError as error:
                if error.reason in {StoreProblem.MISSING, StoreProblem.BROKEN}:
                    return None
                raise
            needs = frozenset(needs_of(manifest))
            self._known[name] = _Known(num_bytes=num_bytes, base=manifest.base_name, needs=needs)
        return self._known[name]


def _version(name: str) -> int:
    return int(name.partition("-")[0])


def _versions_of(reports: Iterable[WorkerReport]) -> Iterator[int]:
    for report in reports:
        told = (report.policy_version, report.prepared_version, report.loading_version, report.newest_version)
        yield from (version for version in told if version)


def _young(items: Sequence[Stored], grace_s: float) -> set[str]:
    """Items written of late by the store's own clock, and those whose time the store does not tell."""
    newest = max((one.changed_at for one in items if one.changed_at is not None), default=0.0)
    return {one.name for one in items if one.changed_at is None or one.changed_at > newest - grace_s}
