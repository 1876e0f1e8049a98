"""The newest versions of the versions stream, and which workers serve or refuse them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rollstream.schemas import Keys, PolicyVersion, SchemaError, decode
from rollstream.schemas.entry_id import MAX_VERSION, EntryId
from rollstream.schemas.printable import printable
from rollstream.schemas.wire.entry_fields import PAYLOAD

from ..fleet import FleetVersion, FleetWorker, Presence
from ..refusals import is_refusing
from .ages import age_s
from .rounds import Note, Part, rows

MOST_VERSIONS = 20


def read_versions(keys: Keys, note: Note) -> Part[tuple[PolicyVersion, ...]]:
    """The newest announced versions, newest first; entries that cannot be read are noted and left out."""
    _, (entries,) = yield [lambda pipe: pipe.xrevrange(keys.versions(), f"{MAX_VERSION}", "-", count=MOST_VERSIONS)]
    found = []
    for entry_id, fields in rows(entries):
        try:
            found.append(_version(entry_id, fields))
        except (SchemaError, ValueError) as error:
            note(f"versions: entry {entry_id.decode()} is left out: {error}")
    return tuple(found)


def _version(entry_id: bytes, fields: Any) -> PolicyVersion:
    version = decode(fields.get(PAYLOAD, b""), PolicyVersion)
    if EntryId.of(entry_id) != EntryId(version.version):
        raise ValueError(f"it announces version {version.version}")
    return version


def versions_seen(
    announced: Iterable[PolicyVersion], workers: Iterable[FleetWorker], now: float
) -> tuple[FleetVersion, ...]:
    """Each version with the workers that serve and refuse it; `now` by Redis' clock."""
    alive = [worker for worker in workers if worker.presence is not Presence.GONE]
    refusing = list(filter(is_refusing, alive))
    return tuple(
        FleetVersion(
            version=one.version,
            source=one.source,
            location=printable(one.location),
            announced_s_ago=age_s(one.published_at, now),
            served_by=tuple(w.consumer for w in alive if w.report.policy_version == one.version),
            refused_by=tuple(w.consumer for w in refusing if w.report.newest_version == one.version),
        )
        for one in announced
    )
