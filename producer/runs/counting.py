"""A staleness gate counts batches that a run consumes or drops. Pure."""

from __future__ import annotations

from rollstream.schemas.hashes.runs import RunField
from rollstream.schemas.wire.trainers.runs import Intent

from ..rollouts.rollout_batch import RolloutBatch
from ..staleness.staleness_gate import StalenessGate


def count(gate: StalenessGate, intent: Intent, how: RunField, batch: object) -> None:
    """Let the samples of a batch out; `batch`: what the trainer has named it by. Raises `NotOutstandingError`."""
    admitted, samples = intent.admitted, intent.samples
    if admitted is None:
        return
    if how is RunField.DROPPED:
        gate.returned(samples, admitted)
    elif isinstance(batch, RolloutBatch):
        gate.count(batch, admitted, samples=samples)  # rows may have been left out, or taken twice
    else:
        gate.consumed(samples, admitted)
