"""All scripts, by the names of their files: no two rooms have one of the same."""

from __future__ import annotations

from types import ModuleType

import rollstream.producer.batches.scripts
import rollstream.producer.images.scripts
import rollstream.producer.observe.parts.scripts
import rollstream.producer.operations.scripts
import rollstream.producer.replay.scripts
import rollstream.producer.runs.scripts
import rollstream.producer.sessions.scripts
import rollstream.transport.cuts.scripts
import rollstream.transport.rounds.scripts
import rollstream.transport.versions.scripts
import rollstream.transport.weights.scripts
import rollstream.worker.delivery.part_scripts
import rollstream.worker.delivery.scripts
import rollstream.worker.images.scripts
import rollstream.worker.intake.scripts
import rollstream.worker.operations.scripts
from rollstream.transport.redis.scripts import Script

_ROOMS: tuple[ModuleType, ...] = (
    rollstream.producer.batches.scripts,
    rollstream.producer.images.scripts,
    rollstream.producer.observe.parts.scripts,
    rollstream.producer.operations.scripts,
    rollstream.producer.replay.scripts,
    rollstream.producer.runs.scripts,
    rollstream.producer.sessions.scripts,
    rollstream.transport.cuts.scripts,
    rollstream.transport.rounds.scripts,
    rollstream.transport.versions.scripts,
    rollstream.transport.weights.scripts,
    rollstream.worker.delivery.part_scripts,
    rollstream.worker.delivery.scripts,
    rollstream.worker.images.scripts,
    rollstream.worker.intake.scripts,
    rollstream.worker.operations.scripts,
)
SCRIPTS = {one.name: one for room in _ROOMS for one in vars(room).values() if isinstance(one, Script)}


def digest(name: str) -> bytes:
    """What a worker's call of this script, such as `publish.lua`, has on the wire."""
    return SCRIPTS[name].sha.encode()
