"""The newest versions of the versions stream, which are active, and which workers serve, prepare or refuse them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from rollstream.schemas import Activation, Keys, PolicyVersion, SchemaError, decode
from rollstream.schemas.entry_id import MAX_VERSION, EntryId
from rollstream.schemas.hashes.worker_report import WorkerReport
from rollstream.schemas.printable import printable
from rollstream.schemas.wire.entry_fields import PAYLOAD

from ...operations.queue_state import refused_version
from ..fleet import FleetVersion, FleetWorker, Presence
from ..refusals import is_refusing
from .ages import age_s
from .rounds import Note, Part, rows

MOST_VERSIONS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionsRead:
    """What the two streams say."""

    announced: tuple[PolicyVersion, ...] = ()
    """The newest, newest first."""
    activations: Mapping[int, Activation] = field(default_factory=dict)
    """The newest, by version."""


def read_versions(keys: Keys, note: Note) -> Part[VersionsRead]:
    """The newest announced and activated versions; entries that cannot be read are noted and left out."""
    newest = f"{MAX_VERSION}"
    _, (entries, activated) = yield [
        lambda pipe: pipe.xrevrange(keys.versions(), newest, "-", count=MOST_VERSIONS),
        lambda pipe: pipe.xrevrange(keys.activations(), newest, "-", count=MOST_VERSIONS),
    ]
    found, activations = [], {}
    for entry_id, fields in rows(entries):
        try:
            found.append(_version(entry_id, fields))
        except (SchemaError, ValueError) as error:
            note(f"versions: entry {entry_id.decode()} is left out: {error}")
    for entry_id, fields in rows(activated):
        with suppress(SchemaError, ValueError):  # workers pass over it too
            one = decode(fields.get(PAYLOAD, b""), Activation)
            if EntryId.of(entry_id) == EntryId(one.version):
                activations[one.version] = one
    return VersionsRead(announced=tuple(found), activations=_of_these(found, activations))


def _of_these(announced: Iterable[PolicyVersion], activations: Mapping[int, Activation]) -> dict[int, Activation]:
    """Without those of a former stream: one whose number has other content now, and all before it."""
    there = [(one, activations[one.version]) for one in announced if one.version in activations]
    former = max((one.version for one, said in there if not said.is_of(one.version, one.sha256)), default=0)
    return {version: said for version, said in activations.items() if version > former}


def _version(entry_id: bytes, fields: Any) -> PolicyVersion:
    version = decode(fields.get(PAYLOAD, b""), PolicyVersion)
    if EntryId.of(entry_id) != EntryId(version.version):
        raise ValueError(f"it announces version {version.version}")
    return version


def versions_seen(read: VersionsRead, workers: Iterable[FleetWorker], now: float) -> tuple[FleetVersion, ...]:
    """Each version with the workers that serve, prepare and refuse it; `now` by Redis' clock."""
    alive = [worker for worker in workers if worker.presence is not Presence.GONE]
    refusing = list(filter(is_refusing, alive))
    at_once = [one.version for one in read.announced if one.activate.when == "at_once"]
    active = max([*read.activations, *at_once], default=0)
    return tuple(
        FleetVersion(
            version=one.version,
            source=one.source,
            location=printable(one.location),
            announced_s_ago=age_s(one.published_at, now),
            served_by=tuple(w.consumer for w in alive if w.report.policy_version == one.version),
            refused_by=tuple(w.consumer for w in refusing if refused_version(w.report) == one.version),
            prepared_by=tuple(w.consumer for w in alive if _has_prepared(w.report, one.version)),
            waits_for=_waits_for(one, active),
            activated_s_ago=age_s(at.at, now) if (at := read.activations.get(one.version)) else None,
        )
        for one in read.announced
    )


def _has_prepared(report: WorkerReport, version: int) -> bool:
    return (report.policy_version or 0) < version <= (report.prepared_version or 0)


def _waits_for(one: PolicyVersion, active: int) -> str:
    """A version below the active one waits for nothing any more: it was passed over."""
    return "" if one.version <= active else one.activate.when
